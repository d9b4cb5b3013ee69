"""Small packages, and what people answer to them in each format."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.formats.rle import encode
from orchestrator.annotation.package import About, Asked, Box, Package, read_note, write_package
from querying.dataset.codecs import encode_label
from querying.labels.regions import RegionGrid

CLASSES = ("road", "car & truck", "<b>tree</b>", 'sky "x"')
PALETTE = ((128, 64, 128), (0, 0, 142), (107, 142, 35), (70, 130, 180))
SIZE = 12, 16


def make_package(
    root: Path,
    pre_of: dict[str, np.ndarray | None] | None = None,
    *,
    classes: Sequence[str] = CLASSES,
    palette: Sequence[tuple[int, int, int]] = PALETTE,
    size: tuple[int, int] = SIZE,
    sizes: Sequence[tuple[int, int]] = (),
    whole: bool = False,
    run: str = "runs/x",
    cycle: int = 1,
) -> Package:
    """A package of images called as the keys of `pre_of`, each with its pre-annotation; two cells of each are asked.

    With `sizes` each image has its own, and the cells are the first and the last of a grid of the largest.
    """
    height, width = tuple(map(max, zip(*sizes, strict=True))) if sizes else size
    rng = np.random.default_rng(len(run) + cycle)
    pre_of = {"a1": blocks(size), "b 3#%": blocks(size, 1), "c/ü": None} if pre_of is None else pre_of
    of = dict(zip(pre_of, sizes or [size] * len(pre_of), strict=True))
    asked = [
        Asked(
            name, rng.integers(0, 256, (*of[name], 3), np.uint8),
            [(-1, 0, 0, *of[name])] if whole else two_boxes(of[name], (height, width), bool(sizes)),
            None if pre is None else encode_label(pre),
        )
        for name, pre in pre_of.items()
    ]  # fmt: skip
    about = About(run, cycle, "m" * 8, "d" * 8, classes, palette, height, width, height // 2)
    uncertainty = {name: (place + 1) / 10 for place, name in enumerate(pre_of)}
    root.mkdir(parents=True, exist_ok=True)
    write_package(root, about, asked, uncertainty)
    return read_note(root)


def two_boxes(size: tuple[int, int], largest: tuple[int, int], in_grid: bool) -> list[Box]:
    height, width = size
    if not in_grid:
        return [(0, 0, 0, height // 2, width // 2), (3, height // 2, width // 2, *size)]
    grid, found = RegionGrid(*largest, 5).on(size), []
    for region in (grid.cells()[0], grid.cells()[-1]):
        rows, columns = grid.box(int(region))
        found.append((int(region), rows.start, columns.start, rows.stop, columns.stop))
    return found


def blocks(size: tuple[int, int] = SIZE, shift: int = 0) -> np.ndarray:
    """Four classes in quarters, and a row that no class has."""
    rows, columns = np.indices(size)
    label_HW = ((2 * (2 * rows // size[0]) + 2 * columns // size[1] + shift) % 4).astype(np.uint8)
    label_HW[-1] = 255
    return label_HW


def brush(package: Package, name: str, mask_HW: np.ndarray, id_: str = "hand", **more: object) -> dict[str, object]:
    return {
        "id": id_, "type": "brushlabels", "from_name": "mask", "to_name": "image", "origin": "manual",
        "original_width": mask_HW.shape[1], "original_height": mask_HW.shape[0], "image_rotation": 0,
        "value": {"format": "rle", "rle": encode(mask_HW), "brushlabels": [name]}, **more,
    }  # fmt: skip


def annotation(results: list[object], number: int = 1, **more: object) -> dict[str, object]:
    return {
        "id": number, "unique_id": f"uuid-{number}", "completed_by": 1, "result": results, "was_cancelled": False,
        "lead_time": 12.5, "created_at": "2026-12-01T10:00:00Z", "updated_at": "2026-12-01T11:00:00.5Z", **more,
    }  # fmt: skip


def task(package: Package, image_id: str, *annotations: object, number: int = 1, **data: object) -> dict[str, object]:
    own = {"image": "/data/local-files/?d=x.png", "image_id": image_id, "query_id": package.query_id, **data}
    return {"id": number, "data": own, "annotations": list(annotations), "drafts": [], "predictions": [7]}


def written(path: Path, tasks: object) -> Path:
    path.write_text(json.dumps(tasks))
    return path
