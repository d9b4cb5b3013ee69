"""A class file for masks that come without one: what is in them, to be given names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.datasets.classes.choice import text_of
from benchmarks.datasets.classes.mask_values import Seen
from benchmarks.datasets.files.layout import find_layout
from benchmarks.datasets.files.pairs import find_pairs
from benchmarks.datasets.sources.folder import look_at_masks


def propose_classes(src: Path, options: dict[str, Any]) -> str:
    """The text of a class file with a line for each value or colour in the masks below `src`, most frequent first
    within colours and in order within values; nothing where there is no mask.  `options` are those of `folder.load`."""
    layout = find_layout(src, options["images"], options["masks"], options["splits"])
    pairs = {
        split: find_pairs(part, options["mask_suffix"], options["image_suffix"]) for split, part in layout.parts.items()
    }
    found = look_at_masks(pairs)
    total = found.pixels.total()
    coloured = [seen for seen in found.pixels if seen.kind == "colour"]
    keys = sorted(coloured or found.pixels, key=lambda seen: -found.pixels[seen] if coloured else seen.value)
    void = 255 if len({seen.value for seen in keys} - {255}) > 1 else -1  # of 0 and 255 the latter is an object
    return "".join(_lines(seen, found.pixels[seen], total, place, void) for place, seen in enumerate(keys))


def _lines(seen: Seen, pixels: int, total: int, place: int, void: int) -> str:
    comment = f"# {100 * pixels / total:.2f} % of all pixels\n"
    if seen.kind == "colour":
        return f"{comment}class_{place} {text_of(seen.colour).replace(',', ' ')}\n"
    return f"{comment}{seen.value} class_{seen.value}\n" if seen.value != void else f"{comment}# 255: not labelled\n"
