"""The classes of a picture below it, with their colours and shares."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from querying.base.redaction import one_line
from querying.dataset.codecs import UInt8

PAPER, INK, EDGE = (255, 255, 255), (31, 35, 41), (106, 113, 123)
POINTS = (10, 28)
"""Smallest and largest height of the text, in pixels; between them a 40th of the picture's width."""


def with_legend(
    image_HWC: UInt8, count_C: npt.NDArray[np.int64], classes: Sequence[str], palette: Sequence[Sequence[int]]
) -> UInt8:
    """The picture (H, W, 3) above a white strip with the name, colour and share of every class that has a pixel, the
    most frequent first; as many lines as they need, at least one entry in each."""
    width = image_HWC.shape[1]
    size = int(np.clip(width / 40, *POINTS))
    entries = [
        (f"{one_line(classes[place])} {100 * count_C[place] / count_C.sum():.1f} %", tuple(palette[place]))
        for place in np.argsort(-count_C, kind="stable")
        if count_C[place]
    ]
    font, gap = _font(size), size // 2
    places, x, y = [], gap, gap
    for text, _ in entries:
        wide = size + gap + round(font.getlength(text))
        if x > gap and x + wide + gap > width:
            x, y = gap, y + size + gap
        places.append((x, y))
        x += wide + 2 * gap
    strip = Image.new("RGB", (width, y + size + gap), PAPER)
    drawing = ImageDraw.Draw(strip)
    for (text, colour), (left, top) in zip(entries, places, strict=True):
        drawing.rectangle((left, top, left + size - 1, top + size - 1), fill=colour, outline=EDGE)
        drawing.text((left + size + gap, top + size // 2), text, fill=INK, font=font, anchor="lm")
    return np.concatenate([image_HWC, np.asarray(strip)])


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """It comes with matplotlib, so that every machine draws the same."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size)
