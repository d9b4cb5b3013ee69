"""Colours, style and files of the report's figures: no global state, the same bytes for the same numbers."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from querying.base.files import written
from querying.dataset.codecs import UInt8
from querying.dataset.label_values import IGNORE

INK, MUTED, RULE, PAPER = "#1f2329", "#6a717b", "#dfe3e8", "#fffffe"
BLUE, DEEP_BLUE = "#0072b2", "#00639c"
_THEMED = {BLUE: "var(--accent)", INK: "currentColor", MUTED: "var(--muted)", RULE: "var(--rule)", PAPER: "none"}
"""Colours that the HTML report replaces, so that a chart follows the page from light to dark."""
# Okabe and Ito's colours, which stay apart for colour-blind readers; markers differ as well.
SERIES = (BLUE, "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#8b6914", "#56b4e9", MUTED)
CYCLES = ("#8a929c", "#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#d55e00", "#8b6914")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p")
STAGES = {"train": DEEP_BLUE, "evaluate": "#56b4e9", "score": "#e69f00", "select": "#cc79a7"}
WIDTH = 7.6  # inches
DPI, PICTURE_DPI = 160, 128
CSS_PIXELS = 1.37  # of a point: charts as large in the page as makes their text as large as the captions
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine draws the same
    "font.size": 9.5,
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "axes.facecolor": "none",
    "legend.frameon": False,
    "svg.hashsalt": "s4al",
}


@contextmanager
def styled() -> Iterator[None]:
    with matplotlib.rc_context(STYLE):
        yield


def cycle_look(cycle: int) -> tuple[str, str]:
    """Colour and marker of a cycle, the same in every figure."""
    return CYCLES[cycle % len(CYCLES)], MARKERS[(cycle + cycle // len(CYCLES)) % len(MARKERS)]


def save(figure: Figure, folder: Path, name: str, *, svg: bool = True) -> None:
    """Write NAME.png, and NAME.svg unless it is a picture."""
    with written(folder / f"{name}.png") as staged:
        FigureCanvasAgg(figure)
        figure.savefig(staged, format="png", dpi=DPI if svg else PICTURE_DPI, metadata={"Software": None})
    figure.set_layout_engine("none")  # the layout stands; to solve it again would double the time
    if svg:
        with written(folder / f"{name}.svg") as staged:
            staged.write_text(svg_text(figure))


def svg_text(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def inline(svg: str) -> str:
    """An SVG file as an element of a page: no prologue, comments, metadata or names, and the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"(/?)>', r"<g\1>", svg)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    found = re.search(r' width="([\d.]+)pt"', svg)
    assert found, "matplotlib gives its figures a width in points"
    svg = svg.replace(found[0], f' style="max-width: {float(found[1]) * CSS_PIXELS:.0f}px"', 1)
    for colour, replacement in _THEMED.items():
        svg = svg.replace(colour, replacement)
    return re.sub(r"\n\s*", "\n", svg)


def blend(image_HWC: UInt8, label_HW: UInt8, palette: Sequence[Sequence[int]], strength: float = 0.6) -> UInt8:
    """The image under the colours of its labels; where they are IGNORE it stays, dim and striped.

    Grey alone would not do: it is the colour of a class in CamVid.
    """
    colour_K3 = np.zeros((256, 3), np.float32)
    colour_K3[: len(palette)] = palette
    mixed_HWC = (1 - strength) * image_HWC + strength * colour_K3[label_HW]
    rows, columns = np.indices(label_HW.shape)
    period = max(6, min(label_HW.shape) // 24)
    stripe_HW = (rows + columns) % period < max(1, period // 6)
    unknown_HWC = np.where(stripe_HW[..., None], 150.0, dimmed(image_HWC))
    blended_HWC: UInt8 = np.where((label_HW == IGNORE)[..., None], unknown_HWC, mixed_HWC).round().astype(np.uint8)
    return blended_HWC


def dimmed(image_HWC: UInt8) -> UInt8:
    """The image in dark grey, (H, W, 1)."""
    grey_HW1: UInt8 = (0.4 * image_HWC.mean(axis=2, keepdims=True)).astype(np.uint8)
    return grey_HW1
