"""Pictures that go beside a package: class ids under the classes' colours, and frames around what is asked."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.formats.labels import colours, image_bytes
from orchestrator.annotation.package import AskedImage, Package
from querying.dataset.codecs import UInt8

MAGENTA = (255, 0, 255)


def png(pixels: UInt8) -> bytes:
    """RGB (H, W, 3) or grey (H, W)."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "png")
    return out.getvalue()


def palette_png(label_HW: UInt8, package: Package) -> bytes:
    """Class ids as a palette PNG in the classes' colours, which editors show and keep."""
    image = Image.fromarray(label_HW).convert("L")
    table = np.zeros((256, 3), np.uint8)
    for label, colour in colours(package).items():
        table[label] = colour
    image.putpalette(table.tobytes())
    out = io.BytesIO()
    image.save(out, "png")
    return out.getvalue()


def framed_png(package: Package, one: AskedImage) -> bytes:
    """The image with a frame around each cell that is asked; the frame covers the cell's outermost pixels."""
    with Image.open(io.BytesIO(image_bytes(package, one)), formats=["png"]) as image:
        rgb = image.convert("RGB")
    draw = ImageDraw.Draw(rgb)
    for _, top, left, bottom, right in one.boxes:
        draw.rectangle((left, top, right - 1, bottom - 1), outline=MAGENTA, width=max(1, one.size[0] // 180))
    out = io.BytesIO()
    rgb.save(out, "png")
    return out.getvalue()
