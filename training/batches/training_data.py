"""Batches as a function of (seed, cycle, step): shards + ledger + pseudo-labels -> augmented images and targets.

Nothing is kept between steps, so a resumed run draws what an undisturbed one would have drawn; a rank takes its
slice of the global batch.
"""

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from querying.base.arrow_file import scored_file
from querying.base.errors import UserError
from querying.dataset.label_values import IGNORE
from querying.dataset.schemas import PSEUDO_LABELS
from querying.dataset.shards import DataIndex, ImageStore, decode_label, encode_label
from querying.labels.ledger import Ledger
from querying.labels.regions import WHOLE, RegionGrid
from querying.labels.reliability import reliable_images
from training.batches.augment_cpu import weak, with_look, without_hole
from training.batches.batch import Batch
from training.batches.strong_view import Look, draw_labelled_look, draw_look
from training.batches.targets import compose_target
from training.settings.training import AugmentSettings

T = TypeVar("T")
UNKNOWN = 254
"""In a target on its way through the augmentation: seen, but not labelled; IGNORE is what cannot be seen."""

CROPS = 10
"""So often, at most, is a crop drawn anew that is to show a class."""
SHARES = 16
"""Draws of a whole image, beside images of which only some cells are bought."""


class _PoolSample(NamedTuple):
    """A pool image: its strong view; or, for a method that labels the pool itself, the weak and the strong ones."""

    images: list[np.ndarray]
    """The first alone where `looks` are left to the device."""
    targets: list[np.ndarray]
    """What each view learns: labels, else UNKNOWN where a pixel is seen by a method that labels the pool itself."""
    looks: list[Look]


class TrainingData:
    """What one cycle trains on: images bought whole, and the pool, which are all others that have a pseudo-label or a
    bought cell."""

    def __init__(
        self,
        index: DataIndex,
        ledger: Ledger,
        cycle: int,
        grid: RegionGrid,
        pseudo: Sequence[Path],
        *,
        augment: AugmentSettings,
        crop: tuple[int, int],
        seed: int,
        views: int | None = None,
        cells_in_pool: bool = True,
        looks_apart: bool = False,
        by_class: bool = False,
    ) -> None:
        """`pseudo` are folders of scores; of one that says which images are reliable, only these count.

        With `views`, the pool comes without pseudo-labels: all other train images, weakly augmented and in as many
        strong views; `target_u` then has the bought cells alone.  Without `cells_in_pool`, images of which only some
        cells are bought are drawn with the labelled images, too, as often as their share of bought pixels asks.  With
        `looks_apart`, strong augmentation is drawn, but left to the device.  `by_class` draws classes, not images."""
        self.views, self.looks_apart = views, looks_apart
        self.store = ImageStore(index, "train")
        self.grid = grid
        self.augment, self.crop = augment.at(index.height), crop
        self.seed, self.cycle = seed, cycle
        self.bought = _cells(ledger, range(cycle + 1))
        whole = set(ledger.whole(cycle, lambda image_id: self._grid(image_id).num_cells))
        self.labelled = [name for name in self.bought if name in whole or not cells_in_pool]
        all_whole = whole.issuperset(self.labelled)
        self.draws = [name for name in self.labelled for _ in range(1 if all_whole else self._share(name))]
        self.targets = {
            image_id: encode_label(compose_target(self._grid(image_id), self.bought[image_id], None))
            for image_id in self.labelled
        }
        self.showing = _showing(self.targets, index.num_classes) if by_class else []
        self.pseudo = _pseudo_labels(pseudo)
        self.pool = [
            image_id
            for image_id in self.store.ids()
            if image_id not in whole
            and (views is not None or image_id in self.pseudo or (cells_in_pool and image_id in self.bought))
        ]
        if views is not None and not self.pool:
            raise UserError(f"{index.root}: every train image is labelled, none is left for the pool")
        if views is not None and index.num_classes > UNKNOWN:
            raise UserError(f"{index.root}: {index.num_classes} classes, but this method can tell {UNKNOWN} apart")

    def batch(self, step: int, rank: int, world: int, *, labelled: int, unlabelled: int) -> Batch:
        """This rank's share of step `step`; `labelled` and `unlabelled` count images over all ranks."""
        positions = range(step * labelled + rank, (step + 1) * labelled, world)
        pairs = [self._labelled(p) for p in positions]
        image, target = self._images([pair[0] for pair in pairs]), self._targets([pair[1] for pair in pairs])
        if not self.pool:
            unlabelled = 0
        positions = range(step * unlabelled + rank, (step + 1) * unlabelled, world)
        pool = [self._unlabelled(p) for p in positions]
        looks = _rows([sample.looks for sample in pool])
        if self.views is None:
            image_u = self._images([sample.images[0] for sample in pool])
            return Batch(image, target, image_u, self._targets([sample.targets[0] for sample in pool]), looks=looks)
        image_u, *strong_u = (self._images(view) for view in zip(*(sample.images for sample in pool), strict=True))
        targets = torch.stack([self._targets(v) for v in zip(*(sample.targets for sample in pool), strict=True)])
        known = targets[0].masked_fill(targets[0] == UNKNOWN, IGNORE)
        views = torch.stack(strong_u) if strong_u else image_u[None, :0]
        return Batch(image, target, image_u, known, views, targets != IGNORE, looks)

    def _grid(self, image_id: str) -> RegionGrid:
        return self.grid.on(self.store.size(image_id))

    def _share(self, image_id: str) -> int:
        """How often an image is drawn in a pass, by its labelled pixels: those of which little is known would otherwise
        crowd out those that are known."""
        area_R = self._grid(image_id).areas()
        regions = [region for region, _ in self.bought[image_id]]
        part = 1.0 if WHOLE in regions else area_R[regions].sum() / area_R.sum()
        return math.ceil(SHARES * part - 1e-9)

    def _labelled(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        if self.showing:
            return self._showing_a_class(position)
        image_id = self._draw(self.draws, 0, position)
        target_HW = decode_label(self.targets[image_id])
        rng = self._rng(0, position)
        image, target = weak(self.store.image(image_id), target_HW, crop=self.crop, settings=self.augment, rng=rng)
        return with_look(image, draw_labelled_look(self.crop, self.augment, rng)), target

    def _showing_a_class(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """A crop of a random image that shows the class whose turn it is; of `CROPS`, the first that shows it, too."""
        label, ids = self._draw(self.showing, 2, position)
        rng = self._rng(0, position)
        image_id = ids[int(rng.integers(len(ids)))]
        whole_HWC, whole_HW = self.store.image(image_id), decode_label(self.targets[image_id])
        crop = partial(weak, whole_HWC, whole_HW, crop=self.crop, settings=self.augment, rng=rng)
        image, target = crop()
        for _ in range(CROPS - 1):
            if (target == label).any():
                break
            image, target = crop()
        return with_look(image, draw_labelled_look(self.crop, self.augment, rng)), target

    def _unlabelled(self, position: int) -> _PoolSample:
        image_id = self._draw(self.pool, 1, position)
        rng = self._rng(1, position)
        pseudo_HW = decode_label(self.pseudo[image_id].as_py()) if image_id in self.pseudo else None
        target_HW = compose_target(self._grid(image_id), self.bought.get(image_id, []), pseudo_HW)
        if self.views is not None:
            target_HW[target_HW == IGNORE] = UNKNOWN  # bought void is seen, too
        image, target = weak(self.store.image(image_id), target_HW, crop=self.crop, settings=self.augment, rng=rng)
        if self.views is None:  # human labels alone are learned as those of the labelled images are
            looks = [Look() if pseudo_HW is None else draw_look(self.crop, self.augment, rng)]
        else:
            looks = [draw_look(self.crop, self.augment, rng) for _ in range(self.views)]
        targets = [without_hole(target, look) for look in looks]
        images = [image] if self.looks_apart else [with_look(image, look) for look in looks]
        if self.views is not None:
            images, targets = [image, *(images if not self.looks_apart else ())], [target, *targets]
        return _PoolSample(images, targets, looks if self.looks_apart else [])

    def _draw(self, ids: Sequence[T], stream: int, position: int) -> T:
        """Every image, or class, once per pass, in an order of its own for each pass."""
        round_, place = divmod(position, len(ids))
        return ids[int(_order(self.seed, self.cycle, 2 + stream, round_, len(ids))[place])]

    def _rng(self, stream: int, position: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([self.seed, self.cycle, stream, position]))

    def _images(self, images: Sequence[np.ndarray]) -> Tensor:
        stacked = np.stack(images) if images else np.zeros((0, *self.crop, 3), np.uint8)
        return torch.from_numpy(stacked).permute(0, 3, 1, 2)

    def _targets(self, targets: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(targets) if targets else np.zeros((0, *self.crop), np.uint8))


def prefetched(
    data: TrainingData,
    steps: range,
    rank: int,
    world: int,
    *,
    labelled: int,
    unlabelled: int,
    threads: int,
    pin: bool = False,
) -> Iterator[Batch]:
    """The batches of `steps` in order, made ahead by `threads` threads while the network computes; `pin` puts them
    where a GPU fetches them without the CPU."""

    def made(step: int) -> Batch:
        batch = data.batch(step, rank, world, labelled=labelled, unlabelled=unlabelled)
        return batch.pinned() if pin else batch

    todo = iter(steps)
    ahead: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(threads) as pool:

        def submit() -> None:
            step = next(todo, None)
            if step is not None:
                ahead.append(pool.submit(made, step))

        for _ in range(threads + 1):
            submit()
        while ahead:
            batch = ahead.popleft().result()
            submit()
            yield batch


@lru_cache(maxsize=4)
def _order(seed: int, cycle: int, stream: int, round_: int, count: int) -> np.ndarray:
    """The order of one pass; it is kept, because drawing it takes longer than all else an image costs where the pool is
    large: for both streams, and where threads are in one pass and the next."""
    return np.random.Generator(np.random.PCG64([seed, cycle, stream, round_])).permutation(count)


def _rows(looks_BV: Sequence[Sequence[Look]]) -> Tensor:
    """(V, B, numbers), or nothing where no look was left to the device."""
    rows = [[look.row() for look in looks] for looks in zip(*looks_BV, strict=True)]
    return torch.tensor(rows, dtype=torch.float64) if rows else torch.zeros(0, 0, 0)


def _cells(ledger: Ledger, cycles: range) -> dict[str, list[tuple[int, bytes]]]:
    cells: dict[str, list[tuple[int, bytes]]] = {}
    for cycle in cycles:
        table = ledger.read(cycle, ["image_id", "region", "label"])
        for image_id, region, png in zip(*(column.to_pylist() for column in table.columns), strict=True):
            cells.setdefault(image_id, []).append((region, png))
    return cells


def _showing(targets: Mapping[str, bytes], num_classes: int) -> list[tuple[int, list[str]]]:
    """Every class that a target shows, and the images whose targets do."""
    showing: list[list[str]] = [[] for _ in range(num_classes)]
    for image_id, png in targets.items():
        for label in np.unique(decode_label(png)).tolist():
            if label < num_classes:
                showing[label].append(image_id)
    return [(label, ids) for label, ids in enumerate(showing) if ids]


def _pseudo_labels(folders: Sequence[Path]) -> dict[str, pa.BinaryScalar]:
    """Image id -> PNG bytes, left in the mapped files until they are read."""
    labels: dict[str, pa.BinaryScalar] = {}
    for folder in folders:
        reliable = reliable_images(folder)
        for path in sorted(folder.glob("pseudo-*.arrow")):
            table = scored_file(path, PSEUDO_LABELS).table()
            rows = zip(table["image_id"].to_pylist(), table["label"], strict=True)
            labels.update(row for row in rows if reliable is None or row[0] in reliable)
    return labels
