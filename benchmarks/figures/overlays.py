"""Pictures of what was asked and what the network labelled by itself, for a few images that the numbers choose."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from benchmarks.figures.style import INK, MUTED, blend, cycle_look, dimmed
from benchmarks.results.findings import Findings
from querying.dataset.codecs import UInt8
from querying.dataset.label_values import IGNORE
from querying.dataset.shards import DataIndex, decode_label, paired, read_images, read_truth
from querying.labels.regions import RegionGrid

WIDTH, NUM_IMAGES = 11.0, 4  # inches, images
SCORE_NAMES = {
    "entropy": "mean entropy (nats)",
    "least_confidence": "mean 1 - top probability",
    "margin": "mean 1 - margin",
    "random": "random number",
    "bald": "mean mutual information (nats)",
    "flip": "mean inconsistency (nats)",
    "flip_entropy": "mean entropy of the mean over the flip (nats)",
    "equal": "mean sum of entropies over the flip (nats)",
    "deal_ds": "mean probability of an error",
    "deal_de": "entropy of the difficulties (nats)",
}


@dataclass(frozen=True, slots=True)
class Cell:
    region: int
    cycle: int
    label: bytes


def asked_most(run: Findings) -> list[str]:
    """Images of which queries bought cells, those with the most first, then by their highest score, then as they were
    asked; the images labelled whole at the start are left out."""
    parts = [part for row in run.cycles[1:] for part in run.ledger.parts(row["cycle"], ["image_id", "score"])]
    if not any(part.num_rows for part in parts):
        return []
    bought = pa.concat_tables(parts).unify_dictionaries()
    image = bought["image_id"].combine_chunks()
    best_I = np.full(len(image.dictionary), -math.inf)
    np.maximum.at(best_I, image.indices, bought["score"].fill_null(-math.inf).to_numpy())
    order_I = np.lexsort((-best_I, -np.bincount(image.indices)))
    return image.dictionary.take(pa.array(order_I)).to_pylist()  # type: ignore[no-any-return]


def queried_cells(run: Findings, ids: Sequence[str]) -> dict[str, list[Cell]]:
    """Image id -> the cells of it that queries bought, for some images."""
    cells: dict[str, list[Cell]] = {image_id: [] for image_id in ids}
    wanted = pa.array(ids, pa.string())
    for row in run.cycles[1:]:
        for part in run.ledger.parts(row["cycle"], ["image_id", "region", "label"]):
            table = part.filter(pc.is_in(part["image_id"].cast(pa.string()), wanted))
            for image_id, region, label in zip(*(column.to_pylist() for column in table.columns), strict=True):
                cells[image_id].append(Cell(region, row["cycle"], label))
    return cells


def spread(ids: Sequence[str], count: int = NUM_IMAGES) -> list[str]:
    """The first of a ranking and others at equal distances through it: neighbours are often frames of one video."""
    return [ids[place * len(ids) // count] for place in range(count)] if len(ids) > count else list(ids)


def draw_queried(run: Findings, index: DataIndex) -> Figure | None:
    """Cells bought, region scores of the last query, what the last training was told, and the truth; where no image has
    one, what came back.  None where nothing was queried.
    """
    ranking = asked_most(run)
    if not ranking:
        return None
    chosen = spread(ranking)
    cells = queried_cells(run, chosen)
    asked = max(row["cycle"] for row in run.cycles[1:] if run.ledger.num_cells(row["cycle"]))
    whole = RegionGrid(index.height, index.width, run.config.query.region_size)
    seen = _last_seen(run, asked, chosen, whole)
    queries = {cycle for cycle, _, _ in seen.values()}
    pixels = _pixels(index, {image_id: run.scored(cycle - 1).shard(image_id) for image_id, (cycle, *_) in seen.items()})
    known = np.concatenate([score_R[np.isfinite(score_R)] for _, score_R, _ in seen.values()])
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)

    figure, panels = panels_of(len(chosen), 4, index, legend=1.35)
    asked_people = all(truth_HW is None for _, truth_HW in pixels.values())
    heat = None
    for axes, image_id in zip(panels, chosen, strict=True):
        (image_HWC, truth_HW), (cycle, score_R, pseudo) = pixels[image_id], seen[image_id]
        axes[0].imshow(image_HWC)
        grid = whole.on((image_HWC.shape[0], image_HWC.shape[1]))
        for cell in cells[image_id]:
            _outline(axes[0], grid, cell)
        axes[1].imshow(dimmed(image_HWC)[..., 0], cmap="gray", vmin=0, vmax=255)
        heat = axes[1].imshow(_heat(score_R, grid), cmap="inferno", vmin=low, vmax=high, alpha=0.8)
        if len(queries) > 1:
            axes[1].set_xlabel(f"query for cycle {cycle}", fontsize=8.5)
        target_HW, back_HW = decode_label(pseudo), np.full(image_HWC.shape[:2], IGNORE, np.uint8)
        for cell in cells[image_id]:
            target_HW[grid.box(cell.region)] = back_HW[grid.box(cell.region)] = decode_label(cell.label)
        axes[2].imshow(blend(image_HWC, target_HW, index.palette))
        if asked_people:
            axes[3].imshow(blend(image_HWC, back_HW, index.palette))
            for cell in cells[image_id]:
                _outline(axes[3], grid, cell)
        elif truth_HW is None:
            axes[3].text(0.5, 0.5, "no mask", transform=axes[3].transAxes, ha="center", color=MUTED)
        else:
            axes[3].imshow(blend(image_HWC, truth_HW, index.palette))
        axes[0].set_ylabel(short(image_id), fontsize=8)
    query = f"the query for cycle {asked}" if queries == {asked} else "the last query that saw it"
    titles = (
        "image",
        f"score of {query}",
        "pseudo-label + bought cells",
        "what came back" if asked_people else "truth",
    )
    for axes_, title in zip(panels[0], titles, strict=True):
        axes_.set_title(title)
    assert heat is not None
    name = SCORE_NAMES.get(run.config.query.acquisition, run.config.query.acquisition)
    bar = figure.colorbar(
        heat, ax=panels.ravel().tolist(), location="bottom", shrink=0.24, aspect=26, pad=0.01, anchor=(0.34, 1)
    )
    bar.set_label(f"{name}; grey: not eligible", fontsize=8.5)
    bar.ax.tick_params(labelsize=8)
    asked_in = sorted({cell.cycle for image_id in chosen for cell in cells[image_id]})
    marks = [
        Patch(fill=False, edgecolor=cycle_look(c)[0], linewidth=2, label=f"bought for cycle {c}") for c in asked_in
    ]
    legend_below(figure, index, marks)
    return figure


def draw_pseudo(run: Findings, index: DataIndex) -> Figure | None:
    """Images, pseudo-labels and, where there is any, truth, from the image that was labelled least to the one labelled
    most.  None where no cycle was scored.
    """
    scored = [row["cycle"] for row in run.cycles if run.layout.scores(row["cycle"]).exists()]
    if not scored or not len(run.scored(scored[-1]).ids):
        return None
    pool = run.scored(scored[-1])
    ranking = pool.by_coverage()
    places = [round(step * (len(ranking) - 1) / (NUM_IMAGES - 1)) for step in range(NUM_IMAGES)]
    best = [ranking[place].as_py() for place in dict.fromkeys(places)]
    chosen = [pool.ids[place].as_py() for place in best]
    pseudo, pixels = pool.pseudo_labels(chosen), _pixels(index, {image_id: pool.shard(image_id) for image_id in chosen})
    known = any(truth_HW is not None for _, truth_HW in pixels.values())
    figure, panels = panels_of(3 if known else 2, len(chosen), index, legend=0.4)
    for column, (place, image_id) in enumerate(zip(best, chosen, strict=True)):
        (image_HWC, truth_HW), pseudo_HW = pixels[image_id], decode_label(pseudo[image_id])
        panels[0, column].imshow(image_HWC)
        panels[0, column].set_title(short(image_id), fontsize=8)
        panels[1, column].imshow(blend(image_HWC, pseudo_HW, index.palette))
        note = f"{100 * pool.coverage_N[place]:.0f} % covered"
        if truth_HW is not None:
            panels[2, column].imshow(blend(image_HWC, truth_HW, index.palette))
            both = (pseudo_HW != IGNORE) & (truth_HW != IGNORE)
            if both.any():
                note += f", {100 * (pseudo_HW == truth_HW)[both].mean():.0f} % of it right"
        panels[1, column].set_xlabel(note, fontsize=8.5)
    for row, title in enumerate(("image", f"pseudo-label of cycle {scored[-1]}", "truth")[: 3 if known else 2]):
        panels[row, 0].set_ylabel(title)
    legend_below(figure, index, [])
    return figure


def coverage_of(run: Findings, cycle: int) -> float | None:
    """Mean share of a pool image's pixels that got a pseudo-label; None where the cycle was not scored."""
    coverage_N = run.scored(cycle).coverage_N
    return float(np.mean(coverage_N)) if len(coverage_N) else None


def panels_of(rows: int, columns: int, index: DataIndex, legend: float) -> tuple[Figure, npt.NDArray[np.object_]]:
    height = rows * 0.97 * (WIDTH / columns) * index.height / index.width
    figure = Figure((WIDTH, height + legend))
    figure.set_layout_engine("constrained", hspace=0, h_pad=0.03)
    panels: npt.NDArray[np.object_] = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.ravel():
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    return figure, panels


def _outline(axes: Axes, grid: RegionGrid, cell: Cell) -> None:
    rows, columns = grid.box(cell.region)
    inset = 0.04 * grid.size  # so that the outlines of neighbours stay apart
    corner = (columns.start - 0.5 + inset, rows.start - 0.5 + inset)
    size = (columns.stop - columns.start - 2 * inset, rows.stop - rows.start - 2 * inset)
    axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=INK, linewidth=2.8))
    axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=cycle_look(cell.cycle)[0], linewidth=1.6))


def legend_below(figure: Figure, index: DataIndex, marks: list[Patch]) -> None:
    classes = [
        Patch(facecolor=f"#{red:02x}{green:02x}{blue:02x}", edgecolor=MUTED, linewidth=0.5, label=name)
        for (red, green, blue), name in zip(index.palette, index.classes, strict=True)
    ]
    grey = Patch(facecolor="#3c3c3c", edgecolor="#969696", hatch="////", linewidth=0.5, label="unknown or void")
    columns = -(-(len(classes) + 1) // -(-(len(classes) + 1) // 9))  # full rows
    size = {"fontsize": 8.5, "handlelength": 1.1, "handleheight": 1.1, "columnspacing": 1.1}
    figure.legend(handles=[*classes, grey], loc="outside lower center", ncols=columns, **size)
    if marks:
        figure.legend(handles=marks, loc="outside upper left", ncols=8, **size)


def _heat(score_R: npt.NDArray[np.float32], grid: RegionGrid) -> npt.NDArray[np.float32]:
    """Scores at the resolution of the image (H, W), NaN where a region is not eligible."""
    heat_HW = np.full((grid.height, grid.width), np.nan, np.float32)
    for region, score in enumerate(score_R):
        if np.isfinite(score):
            heat_HW[grid.box(region)] = score
    return heat_HW


def _last_seen(
    run: Findings, asked: int, ids: Sequence[str], grid: RegionGrid
) -> dict[str, tuple[int, npt.NDArray[np.float32], bytes]]:
    """Image -> the last cycle, at most `asked`, whose query saw it, its scores then and its pseudo-label: an image that
    is labelled whole, or kept as reliable (ST++), is in no later scoring."""
    found: dict[str, tuple[int, npt.NDArray[np.float32], bytes]] = {}
    for cycle in range(asked, 0, -1):
        if left := [image_id for image_id in ids if image_id not in found]:
            scores, pseudo = run.scored(cycle - 1).scores(left, grid), run.scored(cycle - 1).pseudo_labels(left)
            found |= {image_id: (cycle, scores[image_id], pseudo[image_id]) for image_id in scores}
    return found


def _pixels(index: DataIndex, shard_of: Mapping[str, int | None]) -> dict[str, tuple[UInt8, UInt8 | None]]:
    """Image and truth of some images, by their shards in the train split."""
    found: dict[str, tuple[UInt8, UInt8 | None]] = {}
    for number in {number for number in shard_of.values() if number is not None}:
        shard = index.shards("train")[number]
        pair = read_images(index.root, shard, shard_of), read_truth(index.root, shard, shard_of)
        found |= {image_id: (image_HWC, mask_HW) for image_id, image_HWC, mask_HW in paired(index.root, shard, *pair)}
    return found


def truth_of(index: DataIndex, ids: Sequence[str], split: str = "train") -> dict[str, UInt8 | None]:
    return {image_id: mask for shard in index.shards(split) for image_id, mask in read_truth(index.root, shard, ids)}


def short(image_id: str) -> str:
    return image_id if len(image_id) <= 26 else f"{image_id[:12]}…{image_id[-12:]}"
