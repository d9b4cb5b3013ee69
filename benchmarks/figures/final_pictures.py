"""The last model on the split that is reported: truth, prediction and errors of the images that a rule chooses.

The rule: of all images with a known pixel, ordered by their own mIoU, the first, the middle and the last.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.figure import Figure

from benchmarks.figures.overlays import legend_below, panels_of, short, truth_of
from benchmarks.figures.style import blend, dimmed
from benchmarks.results.findings import Findings
from orchestrator.run.summary import COUNTS, image_counts
from querying.dataset.codecs import UInt8
from querying.dataset.label_values import IGNORE
from querying.dataset.shards import DataIndex, ImageStore
from training.inference.evaluation import ShardEvaluator
from training.inference.interval import ImageCounts
from training.inference.predictor import Predictor

WRONG = (255, 60, 60)
ROWS = ("image", "truth", "prediction", "errors")


def chosen(images: ImageCounts) -> dict[str, tuple[str, float]]:
    """Image id -> (worst, median or best, its mIoU in 0..1); fewer than three where there are fewer images."""
    known = [(miou, image_id) for image_id, miou in zip(images.ids, images.miou_N().tolist(), strict=True)]
    ranking = sorted(pair for pair in known if not np.isnan(pair[0]))
    if not ranking:
        return {}
    places = {0: "worst", len(ranking) - 1: "best", (len(ranking) - 1) // 2: "median"}
    places |= {0: "worst"}  # of one image or two
    return {ranking[place][1]: (places[place], ranking[place][0]) for place in sorted(places)}


def draw_final(run: Findings, index: DataIndex) -> Figure | None:
    """A column per image; None where the evaluation did not count images apart (an earlier version's)."""
    cycle, split = run.last["cycle"], run.summary["evaluated_on"]
    images = image_counts(run.layout.evaluation(cycle) / COUNTS)
    found = chosen(images) if images else {}
    if not found:
        return None
    load = partial(Predictor, run.layout.checkpoint(cycle))
    evaluator = ShardEvaluator(load, index.num_classes, 1, run.config.query.threads, run.config.evaluate)
    truth, store = truth_of(index, list(found), split), ImageStore(index, split)
    figure, panels = panels_of(len(ROWS), len(found), index, legend=0.5)
    for column, (image_id, (which, miou)) in enumerate(found.items()):
        image_HWC, truth_HW = store.image(image_id), truth[image_id]
        assert truth_HW is not None, "the evaluation refuses an image without a mask"
        label_HW = next(evaluator.labels([image_HWC]))[0].byte().numpy()
        wrong_HW = (label_HW != truth_HW) & (truth_HW != IGNORE)
        panels[0, column].imshow(image_HWC)
        panels[0, column].set_title(f"{which}: {short(image_id)}", fontsize=9)
        panels[1, column].imshow(blend(image_HWC, truth_HW, index.palette))
        panels[2, column].imshow(blend(image_HWC, label_HW, index.palette))
        panels[3, column].imshow(_errors(image_HWC, truth_HW, wrong_HW))
        right = 1 - wrong_HW.sum() / (truth_HW != IGNORE).sum()
        panels[3, column].set_xlabel(f"mIoU {100 * miou:.1f} %, {100 * right:.1f} % of the pixels right", fontsize=9)
    for row, title in enumerate(ROWS):
        panels[row, 0].set_ylabel(title)
    legend_below(figure, index, [])
    return figure


def _errors(image_HWC: UInt8, truth_HW: UInt8, wrong_HW: np.ndarray) -> UInt8:
    """What is wrong in red on the dimmed image; what nobody labelled striped."""
    shown_HWC = np.repeat(dimmed(image_HWC), 3, axis=2)
    striped_HWC = blend(image_HWC, truth_HW, [(0, 0, 0)] * IGNORE)
    shown_HWC = np.where((truth_HW == IGNORE)[..., None], striped_HWC, shown_HWC)
    errors_HWC: UInt8 = np.where(wrong_HW[..., None], np.array(WRONG, np.uint8), shown_HWC).astype(np.uint8)
    return errors_HWC
