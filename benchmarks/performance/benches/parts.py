"""Small parts of scoring and reading, each against its naive form: the mean over the cells, the pseudo-label's PNG, and
reading a shard.

Run:  python -m benchmarks.performance.benches.parts
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.datasets.street.scene import draw_street
from benchmarks.performance.result import Result, found
from benchmarks.performance.timing import interleaved, milliseconds
from querying.dataset.codecs import decode_label, encode_label
from querying.dataset.shard_writer import ShardWriter
from querying.dataset.shards import read_images
from querying.labels.regions import RegionGrid

HEIGHT, WIDTH, CLASSES, REGION, IMAGES = 360, 480, 11, 30, 32


def main(*, rounds: int = 7, threads: int = 2) -> list[Result]:
    torch.set_num_threads(threads)
    return [_regions(rounds), _label(rounds), *_reading(rounds)]


def looped_mean(grid: RegionGrid, score_BHW: Tensor) -> Tensor:
    """What `RegionGrid.mean` gives, a cell at a time."""
    cells = [score_BHW[:, *grid.box(region)].mean(dim=(1, 2)) for region in range(grid.num_regions)]
    return torch.stack(cells, dim=1)


def plain_png(label_HW: np.ndarray) -> bytes:
    """The image library's own settings."""
    out = io.BytesIO()
    Image.fromarray(label_HW).save(out, "png")
    return out.getvalue()


def _regions(rounds: int) -> Result:
    grid = RegionGrid(HEIGHT, WIDTH, REGION)
    score = torch.rand(4, HEIGHT, WIDTH, device="cuda" if torch.cuda.is_available() else "cpu")
    forms: dict[str, Callable[[], object]] = {
        "ours": lambda: [grid.mean(score) for _ in range(10)],
        "loop": lambda: [looped_mean(grid, score) for _ in range(10)],
    }
    seconds = {name: value / 40 for name, value in interleaved(forms, rounds).items()}
    error = float((grid.mean(score) - looped_mean(grid, score)).abs().max())
    setting = f"4 x {HEIGHT}x{WIDTH}, {grid.num_regions} cells, {score.device}"
    return found(
        "region_mean", "mean over the cells, over a loop over them", setting, seconds["loop"] / seconds["ours"],
        ms_per_image=milliseconds(seconds), largest_difference=error,
    )  # fmt: skip


def _label(rounds: int) -> Result:
    _, label = draw_street(np.random.default_rng(0), HEIGHT, WIDTH, CLASSES)
    label[np.random.default_rng(0).random(label.shape) < 0.02] = 255  # unsure pixels at random: harder than real ones
    assert np.array_equal(decode_label(encode_label(label)), decode_label(plain_png(label)))
    forms = {"ours": lambda: encode_label(label), "plain": lambda: plain_png(label)}
    seconds = interleaved(forms, rounds)
    size = {name: round(len(form()) / 1e3, 1) for name, form in forms.items()}
    return found(
        "pseudo_label_png", "pseudo-label's PNG, over the image library's own settings", f"{HEIGHT}x{WIDTH}",
        seconds["plain"] / seconds["ours"], ms_per_image=milliseconds(seconds), kilobytes=size,
    )  # fmt: skip


def _reading(rounds: int) -> list[Result]:
    """A shard that this process has hashed before, against a folder of PNG files of the same images."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with ShardWriter(root, "train", num_classes=CLASSES, shard_size=IMAGES) as writer:
            for number in range(IMAGES):
                image, _ = draw_street(rng, HEIGHT, WIDTH, CLASSES)
                writer.add(f"{number:03d}", image, None)
                Image.fromarray(image).save(root / f"{number:03d}.png")
        [shard] = writer.close()
        files = sorted(root.glob("*.png"))
        forms = {
            "shard": lambda: sum(int(image.sum(dtype=np.int64)) for _, image in read_images(root, shard)),
            "png": lambda: sum(int(np.asarray(Image.open(path)).sum(dtype=np.int64)) for path in files),
        }
        assert forms["shard"]() == forms["png"]()
        seconds = interleaved(forms, rounds)
        size = (root / shard.images).stat().st_size / 1e6
    setting = f"{IMAGES} images {HEIGHT}x{WIDTH}, in the page cache, every pixel read"
    ms = milliseconds({name: value / IMAGES for name, value in seconds.items()})
    return [
        found(
            "shard_reading", "reading a shard (ppm), over a folder of PNG files", setting,
            seconds["png"] / seconds["shard"], ms_per_image=ms, megabytes=round(size, 1),
        ),
        found("shard_images", "reading a shard", setting, IMAGES / seconds["shard"], unit="images/s"),
        found("shard_bytes", "reading a shard", setting, size / seconds["shard"], unit="MB/s"),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
