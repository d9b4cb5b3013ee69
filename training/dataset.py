"""Batches as a function of (seed, cycle, step): shards + ledger + pseudo-labels -> augmented images and targets.

Nothing is kept between steps, so a resumed run draws what an undisturbed one would have drawn; a rank takes its
slice of the global batch.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from querying.arrow_file import scored_file
from querying.errors import UserError
from querying.labels import IGNORE
from querying.ledger import Ledger
from querying.regions import RegionGrid
from querying.reliability import reliable_images
from querying.schemas import PSEUDO_LABELS
from querying.shards import DataIndex, ImageStore, decode_label, encode_label
from training.augment import strong, weak
from training.batch import Batch
from training.settings import AugmentSettings
from training.targets import compose_target

UNKNOWN = 254
"""In a target on its way through the augmentation: seen, but not labelled; IGNORE is what cannot be seen."""


class TrainingData:
    """What one cycle trains on: images bought whole, and the rest of the pool under pseudo-labels and bought cells."""

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
    ) -> None:
        """`pseudo` are folders of scores; of one that says which images are reliable, only these count.

        With `views`, the pool comes without pseudo-labels: all other train images, weakly augmented and in as many
        strong views; `target_u` then has the bought cells alone.  Without `cells_in_pool`, images of which only some
        cells are bought are drawn with the labelled images, too, everything else in them ignored."""
        self.views = views
        self.store = ImageStore(index, "train")
        self.grid = grid
        self.augment, self.crop = augment, crop
        self.seed, self.cycle = seed, cycle
        self.bought = _cells(ledger, range(cycle + 1))
        whole = {name for name, cells in self.bought.items() if len(cells) == grid.num_regions}
        self.labelled = [name for name in self.bought if name in whole or not cells_in_pool]
        self.targets = {
            image_id: encode_label(compose_target(grid, self.bought[image_id], None)) for image_id in self.labelled
        }
        self.pseudo = _pseudo_labels(pseudo)
        self.pool = [
            image_id
            for image_id in self.store.ids()
            if image_id not in whole and (views is not None or image_id in self.pseudo)
        ]
        if views is not None and not self.pool:
            raise UserError(f"{index.root}: every train image is labelled, none is left for the pool")
        if views is not None and index.num_classes > UNKNOWN:
            raise UserError(f"{index.root}: {index.num_classes} classes, but this method can tell {UNKNOWN} apart")

    def batch(self, step: int, rank: int, world: int, *, labelled: int, unlabelled: int) -> Batch:
        """This rank's share of step `step`; `labelled` and `unlabelled` count images over all ranks."""
        positions = range(step * labelled + rank, (step + 1) * labelled, world)
        image, target = self._stack([self._labelled(p) for p in positions])
        if not self.pool:
            unlabelled = 0
        positions = range(step * unlabelled + rank, (step + 1) * unlabelled, world)
        if self.views is not None:
            return Batch(image, target, *self._stack_views([self._views(p, self.views) for p in positions]))
        image_u, target_u = self._stack([self._unlabelled(p) for p in positions])
        return Batch(image, target, image_u, target_u)

    def _labelled(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        image_id = self._draw(self.labelled, 0, position)
        target_HW = decode_label(self.targets[image_id])
        rng = self._rng(0, position)
        return weak(self.store.image(image_id), target_HW, crop=self.crop, settings=self.augment, rng=rng)

    def _unlabelled(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        image_id = self._draw(self.pool, 1, position)
        pseudo_HW = decode_label(self.pseudo[image_id].as_py())
        target_HW = compose_target(self.grid, self.bought.get(image_id, []), pseudo_HW)
        rng = self._rng(1, position)
        pair = weak(self.store.image(image_id), target_HW, crop=self.crop, settings=self.augment, rng=rng)
        return strong(*pair, settings=self.augment, rng=rng)

    def _views(self, position: int, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """An image with its bought cells, else UNKNOWN where a pixel is seen: the weak view, then `count` strong views
        of it."""
        image_id = self._draw(self.pool, 1, position)
        image_HWC, rng = self.store.image(image_id), self._rng(1, position)
        target_HW = compose_target(self.grid, self.bought.get(image_id, []), None)
        target_HW[target_HW == IGNORE] = UNKNOWN  # bought void is seen, too
        first = weak(image_HWC, target_HW, crop=self.crop, settings=self.augment, rng=rng)
        return [first, *(strong(*first, settings=self.augment, rng=rng) for _ in range(count))]

    def _stack_views(self, samples: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]]) -> tuple[Tensor, ...]:
        """image_u, target_u, strong_u, seen_u of a Batch."""
        images, targets = zip(*(self._stack(view) for view in zip(*samples, strict=True)), strict=True)
        strong_u = torch.stack(images[1:]) if images[1:] else images[0][None, :0]
        known = targets[0].masked_fill(targets[0] == UNKNOWN, IGNORE)
        return images[0], known, strong_u, torch.stack(targets) != IGNORE

    def _draw(self, ids: Sequence[str], stream: int, position: int) -> str:
        """Every image once per pass, in an order of its own for each pass."""
        round_, place = divmod(position, len(ids))
        order = np.random.Generator(np.random.PCG64([self.seed, self.cycle, 2 + stream, round_])).permutation(len(ids))
        return ids[int(order[place])]

    def _rng(self, stream: int, position: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([self.seed, self.cycle, stream, position]))

    def _stack(self, samples: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[Tensor, Tensor]:
        if not samples:
            return torch.zeros(0, 3, *self.crop, dtype=torch.uint8), torch.zeros(0, *self.crop, dtype=torch.uint8)
        images, targets = zip(*samples, strict=True)
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.from_numpy(np.stack(targets))


def prefetched(
    data: TrainingData, steps: range, rank: int, world: int, *, labelled: int, unlabelled: int, threads: int
) -> Iterator[Batch]:
    """The batches of `steps` in order, made ahead by `threads` threads while the network computes."""
    todo = iter(steps)
    ahead: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(threads) as pool:

        def submit() -> None:
            step = next(todo, None)
            if step is not None:
                ahead.append(pool.submit(data.batch, step, rank, world, labelled=labelled, unlabelled=unlabelled))

        for _ in range(threads + 1):
            submit()
        while ahead:
            batch = ahead.popleft().result()
            submit()
            yield batch


def _cells(ledger: Ledger, cycles: range) -> dict[str, list[tuple[int, bytes]]]:
    cells: dict[str, list[tuple[int, bytes]]] = {}
    for cycle in cycles:
        table = ledger.read(cycle, ["image_id", "region", "label"])
        for image_id, region, png in zip(*(column.to_pylist() for column in table.columns), strict=True):
            cells.setdefault(image_id, []).append((region, png))
    return cells


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
