"""A picture of what a data set will be: images beside their masks, so that a person sees a wrong label in seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.datasets.files.images import UInt8, resize_image, resize_mask
from benchmarks.datasets.sources.source import RawDataset, RawSample
from benchmarks.figures.style import blend
from querying.base.files import written
from querying.dataset.label_values import IGNORE

SHOWN = 12
"""Pairs on a sheet: four rows of three."""
_COLUMNS, _SIDE, _GAP, _LINE = 3, 232, 10, 18
_CELL = 2 * _SIDE + 2 * _GAP
_INK, _MUTED, _PAPER = (31, 35, 41), (106, 113, 123), (255, 255, 254)


def write_sheet(raw: RawDataset, path: Path) -> int:
    """Write a PNG of up to SHOWN images, each beside the same image under the colours of its mask; return how many.

    Images with a mask are preferred, and spread evenly over each split and over the splits.  What is not labelled is
    dim and striped.  Read as they will be stored but for their size, so that a wrong turn or pairing shows.
    """
    pairs = [_thumbnails(raw, split, sample) for split, sample in _chosen(raw)]
    columns = min(_COLUMNS, len(pairs))
    rows = [pairs[start : start + columns] for start in range(0, len(pairs), columns)]
    width = max(_COLUMNS * _CELL + _GAP, 480)
    legend = list(_legend_rows([*raw.classes, "not labelled"], width))
    heights = [_LINE + _GAP + max(left.height for _, left, _ in row) for row in rows]
    sheet = Image.new("RGB", (width, _GAP + _LINE * (len(legend) + 1) + sum(heights)), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for row, items in enumerate(legend):
        for x, label in items:
            _legend_entry(pen, x, _GAP + row * _LINE, label, raw)
    top = _GAP + _LINE * (len(legend) + 1)
    for cells, height in zip(rows, heights, strict=True):
        for column, (text, left, right) in enumerate(cells):
            x = _GAP + column * _CELL
            pen.text((x, top), _shortened(text, 64), _INK, font)
            sheet.paste(left, (x, top + _LINE))
            if right is None:
                pen.text((x + _SIDE + _GAP, top + _LINE), "no mask", _MUTED, font)
            else:
                sheet.paste(right, (x + _SIDE + _GAP // 2, top + _LINE))
        top += height
    with written(path) as staged:
        sheet.save(staged, "png")
    return len(pairs)


def _thumbnails(raw: RawDataset, split: str, sample: RawSample) -> tuple[str, Image.Image, Image.Image | None]:
    """Caption, image, and the image under its mask; None without one."""
    image_HWC, labels_HW = sample.read()
    height, width = image_HWC.shape[:2]
    scale = min(_SIDE / height, _SIDE / width)
    small_HWC = resize_image(image_HWC, (max(1, round(height * scale)), max(1, round(width * scale))))
    overlay = None if labels_HW is None else Image.fromarray(_overlay(small_HWC, labels_HW, raw))
    return f"{split}: {sample.image_id}  {height}x{width}", Image.fromarray(small_HWC), overlay


def _legend_entry(pen: ImageDraw.ImageDraw, x: int, y: int, label: int, raw: RawDataset) -> None:
    named = label < len(raw.classes)
    pen.rectangle((x, y + 2, x + 11, y + 13), fill=tuple(raw.palette[label]) if named else (40, 40, 40), outline=_MUTED)
    if not named:
        pen.line((x, y + 13, x + 11, y + 2), fill=(150, 150, 150), width=2)
    text = _shortened(raw.classes[label], 40) if named else "not labelled"
    pen.text((x + 16, y), text, _INK, ImageFont.load_default(13))


def _overlay(image_HWC: UInt8, labels_HW: UInt8, raw: RawDataset) -> UInt8:
    """Strong colours: the photograph stands beside them, and shows through only so far that a shift is seen."""
    small_HW = resize_mask(labels_HW, (image_HWC.shape[0], image_HWC.shape[1]))
    return blend(image_HWC, np.where(small_HW < len(raw.classes), small_HW, IGNORE), raw.palette, strength=0.65)


def _chosen(raw: RawDataset) -> Iterator[tuple[str, RawSample]]:
    """Evenly spread samples, as many of each split as of the others while it has some."""
    of = {
        split: [sample for sample in samples if getattr(sample, "mask", True) is not None] or list(samples)
        for split, samples in raw.splits.items()
    }
    counts = dict.fromkeys(of, 0)
    while sum(counts.values()) < SHOWN and (open_ := [split for split in of if counts[split] < len(of[split])]):
        counts[min(open_, key=counts.__getitem__)] += 1
    for split, count in counts.items():
        for place in np.linspace(0, len(of[split]) - 1, count).round().astype(int):
            yield split, of[split][place]


def _legend_rows(classes: Sequence[str], width: int) -> Iterator[list[tuple[int, int]]]:
    """Rows of (x, class) that fit the width."""
    font, x, row = ImageFont.load_default(13), _GAP, list[tuple[int, int]]()
    for label, name in enumerate(classes):
        needed = 16 + int(font.getlength(_shortened(name, 40))) + 18
        if row and x + needed > width:
            yield row
            x, row = _GAP, []
        row.append((x, label))
        x += needed
    yield row


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."
