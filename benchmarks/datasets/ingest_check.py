"""Every file of a raw data set is looked at before anything is written; what is reinterpreted is said, with counts."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from benchmarks.datasets.files.images import Size
from benchmarks.datasets.files.listing import named
from benchmarks.datasets.sources.source import TRAITS, UNCLEAR, Checked, RawDataset, RawSample
from querying.base.errors import UserError
from querying.dataset.label_values import IGNORE
from querying.dataset.limits import MIN_SIDE, class_names

SAME_ASPECT = 0.02
"""Up to this relative difference of width : height nobody sees that an image was stretched."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True)
class Findings:
    """What the check of a raw data set found.  `fingerprint`: of every file that goes in; `pixels`: of each label, by
    split, int64 (256,); `masked`: masks, by split; `sizes`: images of each size; `size_of`: by image id, where there
    are several."""

    fingerprint: str = ""
    pixels: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    masked: Counter[str] = field(default_factory=Counter)
    sizes: Counter[Size] = field(default_factory=Counter)
    size_of: dict[str, Size] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    first_of_size: dict[Size, str] = field(default_factory=dict)
    traits: dict[str, list[str]] = field(default_factory=dict)
    void: list[str] = field(default_factory=list)

    def add(self, split: str, checked: Checked) -> None:
        self.sizes[checked.size] += 1
        self.first_of_size.setdefault(checked.size, checked.where)
        for trait in checked.traits:
            self.traits.setdefault(trait, []).append(checked.where)
        total = self.pixels.setdefault(split, np.zeros(256, np.int64))
        if checked.pixels is not None:
            total += checked.pixels
            self.masked[split] += 1
            if checked.pixels[IGNORE] == checked.pixels.sum():
                self.void.append(checked.where)


def check(raw: RawDataset, pool: ThreadPoolExecutor, allow_duplicates: bool, stretch: bool = True) -> Findings:
    """Look at every sample; UserError names the first that is wrong.  `stretch`: say which images change shape."""
    ids: dict[str, int] = {}
    images: dict[bytes, int] = {}  # eight bytes of a hash and a place, so that a million images take some 200 MB
    if not raw.name.isprintable():
        raise UserError(f"{raw.name!r}: a folder name with characters that can not be printed")
    try:
        class_names(list(raw.classes))
    except ValueError as error:
        raise UserError(f"{raw.name}: {error}") from None
    found, fingerprint, leaks = Findings(), hashlib.sha256(), []
    for split, samples in raw.splits.items():
        if not samples:
            raise UserError(f"{raw.name}: the {split} split has no images")
        start = len(ids)
        for sample, checked in zip(samples, ordered(pool, _check_one, samples), strict=True):
            name, number = sample.image_id, len(ids)
            if name in ids:
                raise UserError(f"{checked.where}: its id {name!r} is also that of {_at(raw, ids[name])[1].where}")
            ids[name] = number
            twin = images.setdefault(hashlib.sha256(checked.image.encode()).digest()[:8], number)
            if twin < start and (leak := _leak(split, checked, *_at(raw, twin))):
                if not allow_duplicates:
                    raise UserError(f"{leak}; --allow-duplicates takes both")
                leaks.append(leak)
            found.add(split, checked)
            found.size_of[name] = checked.size
            fingerprint.update(f"{split}\n{name}\n{checked.image}\n{checked.mask}\n".encode())
    found.fingerprint = fingerprint.hexdigest()
    if raw.size is not None or len(found.sizes) == 1:
        found.size_of.clear()
    _refuse(raw, found)
    found.said = [*raw.said, *_said(raw, found, stretch)]
    if leaks:
        found.said.append(f"{leaks[0]}{f' (and {len(leaks) - 1} more)' if len(leaks) > 1 else ''}")
    return found


def ordered(pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`pool.map`, but only a few results ahead of the caller, so that memory does not grow with the data set."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > 16:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def size_text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _at(raw: RawDataset, number: int) -> tuple[str, Checked]:
    """Split and findings of a sample by its place among all."""
    samples = ((split, sample) for split, samples in raw.splits.items() for sample in samples)
    split, sample = next(itertools.islice(samples, number, None))
    return split, sample.check()


def _leak(split: str, checked: Checked, other_split: str, other: Checked) -> str:
    """What is learned from one would be tested on the other."""
    if checked.image != other.image:
        return ""
    return f"{checked.where}: the {split} image is, byte for byte, {other.where} of {other_split}"


def _check_one(sample: RawSample) -> Checked:
    if not sample.image_id.isprintable():
        raise UserError(f"{sample.image_id!r}: a file name with characters that can not be printed")
    checked = sample.check()
    if min(checked.size) < MIN_SIDE:
        raise UserError(f"{checked.where}: {size_text(checked.size)} pixels; both sides must be at least {MIN_SIDE}")
    return checked


def _refuse(raw: RawDataset, found: Findings) -> None:
    """UserError for what only the whole set shows."""
    if unclear := found.traits.get(UNCLEAR):
        raise UserError(
            f"{named(unclear, 'image')}: EXIF says to turn them. Were their masks drawn on the picture as viewers show"
            " it (--exif apply) or as it is stored (--exif ignore)? Their sizes do not tell"
        )
    total = sum(found.pixels.values(), np.zeros(256, np.int64))
    present = np.flatnonzero(total[: len(raw.classes)])
    if not found.masked.total() or len(present) > 1:
        return
    absent = [name for k, name in enumerate(raw.classes) if k not in present]
    seen = f"only {raw.classes[present[0]]!r} is" if len(present) else "no class is"
    remedy = (
        f", where 255 stands for 'not labelled': --map 255={absent[0]} if it is {absent[0]!r}" if total[IGNORE] else ""
    )
    raise UserError(
        f"{raw.name}: {seen} in the {found.masked.total()} masks ({total[IGNORE] / max(total.sum(), 1):.1%} of their"
        f" pixels are not labelled{remedy}); a model needs two classes with pixels"
    )


def _said(raw: RawDataset, found: Findings, stretch: bool) -> Iterator[str]:
    for trait, text in TRAITS.items():
        if paths := found.traits.get(trait):
            yield f"{named(paths, 'image')}: {text}"
    if raw.size is None and len(found.sizes) > 1:
        yield f"images of {len(found.sizes)} sizes, {raw.kept}: {counted(found.sizes)}"
    if raw.size is not None and stretch:
        yield from _stretched(raw.size, found)
    if found.void:
        yield f"{named(found.void, 'image', 'the mask has no labelled pixel')}"
    if found.masked.total():
        total = sum(found.pixels.values(), np.zeros(256, np.int64))
        absent = [name for name, pixels in zip(raw.classes, total, strict=False) if not pixels]
        if absent:
            yield f"no pixel in any mask: {', '.join(absent)} ({len(absent)} of {len(raw.classes)} classes)"


def _stretched(size: Size, found: Findings) -> Iterator[str]:
    """Images that will have another shape: circles become ellipses, and no class learns what it looks like."""
    wanted = size[1] / size[0]
    change = {other: other[1] / other[0] / wanted for other in found.sizes}
    wrong = [other for other, ratio in change.items() if max(ratio, 1 / ratio) > 1 + SAME_ASPECT]
    if wrong:
        count = sum(found.sizes[other] for other in wrong)
        worst = max(wrong, key=lambda other: max(change[other], 1 / change[other]))
        by = max(change[worst], 1 / change[worst]) - 1
        yield (
            f"stretched: {count} of {found.sizes.total()} images have another shape than --size {size_text(size)}, most"
            f" {found.first_of_size[worst]} ({size_text(worst)}, by {by:.0%}): crop or pad them before, or choose a"
            " --size of their shape"
        )
    elif len(found.sizes) > 1:
        yield f"resized to {size_text(size)}: {counted(found.sizes)}"


def counted(sizes: Counter[Size]) -> str:
    counts = ", ".join(f"{count} of {size_text(size)}" for size, count in sizes.most_common(4))
    return f"{counts}{', ...' if len(sizes) > 4 else ''}"
