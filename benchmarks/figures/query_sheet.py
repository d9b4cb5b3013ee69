"""The contact sheet of a query: the first images with the boxes that are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from benchmarks.figures.overlays import panels_of, short
from benchmarks.figures.style import INK, cycle_look
from querying.dataset.shards import DataIndex, ImageStore

if TYPE_CHECKING:
    from benchmarks.results.asked import Asked

IMAGES, COLUMNS = 12, 4


def draw_sheet(rows: Sequence[Asked], index: DataIndex, cycle: int) -> Figure:
    """The IMAGES images with the highest scores, the boxes of each outlined in the colour of the `cycle` to come."""
    boxes: dict[str, list[Asked]] = {}
    for row in rows:
        boxes.setdefault(row.image_id, []).append(row)
    chosen, store = list(boxes)[:IMAGES], ImageStore(index, "train")
    columns = min(COLUMNS, len(chosen))
    figure, panels = panels_of(-(-len(chosen) // columns), columns, index, legend=0.4)
    for axes, image_id in zip(panels.ravel(), chosen, strict=False):
        axes.imshow(store.image(image_id))
        axes.set_title(short(image_id), fontsize=8)
        for row in boxes[image_id]:
            top, left, bottom, right = row.box
            for colour, width in ((INK, 2.8), (cycle_look(cycle)[0], 1.6)):
                corner, size = (left - 0.5, top - 0.5), (right - left, bottom - top)
                axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=width))
    for axes in panels.ravel()[len(chosen) :]:
        axes.set_visible(False)
    return figure
