"""Draws docs/images/strip.png, the picture of the README, from a finished run: `python docs/make_strip.py RUN DATA`."""

import sys
from functools import partial
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from benchmarks.figures.overlays import asked_most, queried_cells, truth_of
from benchmarks.figures.style import blend
from benchmarks.results.findings import data_of, load_findings
from querying.dataset.shards import ImageStore, decode_label
from querying.labels.regions import RegionGrid
from training.inference.evaluation import ShardEvaluator
from training.inference.predictor import Predictor

TITLES = (
    "an image of the pool",
    "what was asked of it",
    "what the network labelled itself",
    "the prediction",
    "the truth",
)


def main(run: Path, data: Path) -> None:
    [found] = load_findings([run])
    index = data_of(found, run, data)
    image_id = asked_most(found)[0]
    grid = RegionGrid(index.height, index.width, found.config.query.region_size)
    image_HWC = ImageStore(index, "train").image(image_id)
    last = found.last["cycle"]
    load = partial(Predictor, found.layout.checkpoint(last))
    evaluator = ShardEvaluator(load, index.num_classes, 1, found.config.query.threads, found.config.evaluate)
    label_HW = next(evaluator.labels([image_HWC]))[0].byte().numpy()
    pseudo_HW = decode_label(found.scored(last - 1).pseudo_labels([image_id])[image_id])
    truth_HW = truth_of(index, [image_id])[image_id]

    figure = Figure((12, 12 / len(TITLES) * index.height / index.width + 0.35), layout="constrained")
    panels = figure.subplots(1, len(TITLES))
    pictures = [
        image_HWC,
        image_HWC,
        *(blend(image_HWC, one, index.palette) for one in (pseudo_HW, label_HW, truth_HW)),
    ]
    for axes, title, picture in zip(panels, TITLES, pictures, strict=True):
        axes.imshow(picture)
        axes.set_title(title, fontsize=9)
        axes.set_axis_off()
    for cell in queried_cells(found, [image_id])[image_id]:
        rows, columns = grid.box(cell.region)
        size = columns.stop - columns.start, rows.stop - rows.start
        panels[1].add_patch(Rectangle((columns.start, rows.start), *size, fill=False, edgecolor="white", linewidth=1.6))
    FigureCanvasAgg(figure)
    figure.savefig(Path(__file__).parent / "images" / "strip.png", dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
