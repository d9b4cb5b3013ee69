"""Which regime a data set is in, what `s4al doctor` would start with there, and why.

What counts is measured, cheaply: how many images there are, how many are labelled, how alike neighbours are, and which
classes are rare.  What follows from it is advice; `docs/use/which_recipe.md` has the evidence behind every line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.table import Table

from querying.dataset.shards import DataIndex

SIDE = 16
"""Of the grey thumbnails that are compared."""
LEAST_IMAGES = 8
"""Of fewer, neighbours tell nothing."""
ALIKE = 0.5
"""Redundancy from which a data set is called redundant: neighbours differ half as much as any two images."""
RARE = 0.02
"""A class with a smaller share of the known pixels is called rare."""
FEW_LABELLED = 50
"""A tenth of fewer images than this, labelled, is five."""
PAPERS_HEIGHT, PAPERS_REGION = 360, 30
"""Of an image and of a region that is asked for, in pixels, in the paper (CamVid)."""
RECIPES = {
    ("camvid", (360, 480)): "camvid_s4al_plus",
    ("camvid", (180, 240)): "camvid_cpu",
    ("cityscapes", (688, 688)): "cityscapes_s4al_plus",
}
"""Of data sets of a name and size; the generated scenes have `toy_s4al_plus`, and all others `custom_s4al_plus`."""


class Neighbours:
    """Thumbnails of a split in its order."""

    def __init__(self) -> None:
        self.thumbnails: list[npt.NDArray[np.uint8]] = []

    def add(self, image_HWC: npt.NDArray[np.uint8]) -> None:
        small = Image.fromarray(image_HWC).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
        self.thumbnails.append(np.asarray(small))

    def redundancy(self) -> float | None:
        """1 - d / D: d is the median difference between an image and the next one, D that between an image and the one
        half the split away, each difference a mean over the thumbnail's pixels.  About 0: neighbours are as different
        as any two; 1: they are the same.  None of fewer than `LEAST_IMAGES`."""
        if len(self.thumbnails) < LEAST_IMAGES:
            return None
        small_NHW = np.stack(self.thumbnails).astype(np.float32)
        near, far = (
            float(np.median(np.abs(one - other).mean(axis=(1, 2))))
            for one, other in (
                (small_NHW[1:], small_NHW[:-1]),
                (small_NHW, np.roll(small_NHW, len(small_NHW) // 2, axis=0)),
            )
        )
        return 1 - near / far if far else 1.0


@dataclass(frozen=True, slots=True)
class Regime:
    """Of a train split."""

    images: int
    masked: int
    redundancy: float | None
    shares: dict[str, float]
    """Of each class among the known pixels; empty where none is known."""

    @classmethod
    def of(cls, index: DataIndex, neighbours: Neighbours) -> Regime:
        shards = index.shards("train")
        pixels_C = sum(
            (np.array(shard.class_pixels, np.int64) for shard in shards), np.zeros(index.num_classes, np.int64)
        )
        total = int(pixels_C.sum())
        shares = {name: int(n) / total for name, n in zip(index.classes, pixels_C, strict=True)} if total else {}
        masked = sum(shard.masked for shard in shards) if total else 0  # masks that are void throughout teach nothing
        return cls(index.num_images("train"), masked, neighbours.redundancy(), shares)

    @property
    def rare(self) -> list[str]:
        """Classes that are there, but seldom, the rarest first."""
        there = sorted((share, name) for name, share in self.shares.items() if 0 < share < RARE)
        return [name for _, name in there]

    def table(self) -> Table:
        table = Table("regime of the train split", "", title_justify="left")
        known = "" if self.masked == self.images else f": {self.masked} of {self.images} images have a mask"
        table.add_row("images", str(self.images))
        table.add_row("labelled", f"{100 * self.masked / max(self.images, 1):.1f} %{known}")
        alike = "too few images to tell" if self.redundancy is None else f"{self.redundancy:.2f}, {self._kind}"
        table.add_row("redundancy of neighbours", alike)
        shown = ", ".join(f"{name} {100 * self.shares[name]:.2f} %" for name in self.rare) or "none"
        table.add_row(f"classes below {100 * RARE:g} %", shown if self.shares else "unknown: no mask")
        return table

    @property
    def _kind(self) -> str:
        return "redundant" if self.redundancy is not None and self.redundancy >= ALIKE else "diverse"

    def advice(self, name: str, size: tuple[int, int], data: str) -> Iterator[str]:
        """What to start with, a line each, the command first; `data` as it is typed."""
        recipe = "toy_s4al_plus" if name == "toy" else RECIPES.get((name, size), "custom_s4al_plus")
        height = min(size)  # of regions as large, beside the image, as the paper's
        small = recipe == "custom_s4al_plus" and height < PAPERS_HEIGHT
        cell = f" query.region_size={max(2, round(PAPERS_REGION * height / PAPERS_HEIGHT))}" if small else ""
        if not self.masked:
            yield "s4al init DIR --images SRC: no image of the train split has a mask, so people label first"
            return
        if self.masked < self.images:
            yield (
                f"s4al run {recipe} initial.images={self.masked} query.per_image=0 reference=false{cell} --data {data}:"
                " trains on all masks that are there and on the other images by self-training; annotator=human instead"
                " of query.per_image=0: people answer"
            )
        else:
            yield f"s4al run {recipe}{cell} --data {data}: every image has a mask, so queries are answered from them"
            yield f"s4al headroom {recipe} --data {data} first: what this size and schedule can show at all"
        if self.masked < FEW_LABELLED:
            yield f"three seeds or more before a difference is believed: {self.masked} labelled images are few"
        if self.rare:
            if self.masked == self.images:
                yield "initial.cover=true: rare classes are in the first labelled images"
            yield (
                "rare classes: look for those that no pixel is pseudo-labelled as (a warning of the run), and try"
                " query.class_share against it"
            )
        if self._kind == "redundant":
            yield (
                "neighbours are alike, as in videos: try query.select=diverse and query.acquisition=random beside the"
                " default, since redundancy decides which acquisition is best"
            )
