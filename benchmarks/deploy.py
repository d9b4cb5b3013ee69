"""Use the model that came out: segment images (`s4al predict`), or hand it on as ONNX (`s4al export`)."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

from benchmarks.drawing import blend
from benchmarks.images import read_rgb, resize_image
from orchestrator.layout import RunLayout
from orchestrator.progress import shown
from orchestrator.recipe_file import is_run
from querying.codecs import UInt8
from querying.errors import InfrastructureError, UserError
from querying.files import check_folder, written
from querying.labels import top_class
from querying.leftovers import writing_into
from querying.shown import one_line
from training.checkpoint import read_meta
from training.model import IMAGENET_MEAN, IMAGENET_STD, DeepLabV3Plus
from training.predictor import Predictor, load_network

OPSET = 18
TOLERANCE = 1e-4
"""Largest difference between the logits of ONNX Runtime and of PyTorch that is published."""
SUFFIXES = (".jpg", ".jpeg", ".png")


def predict_command(run: Path, images: Path, out: Path, cycle: int | None) -> None:
    """Write OUT/<stem>.png (palette PNG whose pixels are class ids) and OUT/<stem>_overlay.png for every image.

    The network sees an image at the size of the training data: one of another size is resized for it, and its logits
    are brought back to the image's own size, so masks always have the size of their image.  `images` is a file or a
    folder (searched through); UserError where there is no image, or two would be written to the same file.
    """
    checkpoint = find_checkpoint(run, cycle)
    sources = _sources(images)
    _check_out(out, images, sources)
    meta = read_meta(checkpoint)
    predict = Predictor(checkpoint)
    pixels_C = np.zeros(len(meta["classes"]), np.int64)
    with shown() as progress, writing_into(out, progress.say):
        progress.stage(f"segment {len(sources)} image{'s' * (len(sources) > 1)} with {checkpoint}")
        for done, (stem, path) in enumerate(sources.items(), 1):
            image_HWC = read_rgb(path)
            label_HW = segment(predict, image_HWC, (meta["height"], meta["width"]), path)
            pixels_C += np.bincount(label_HW.ravel(), minlength=len(pixels_C))
            _write_mask(out / f"{stem}.png", label_HW, meta["palette"])
            with written(out / f"{stem}_overlay.png") as staged:
                Image.fromarray(blend(image_HWC, label_HW, meta["palette"], strength=0.55)).save(staged, "png")
            progress.update(done, len(sources), "images")
    print(f"{out}: {len(sources)} mask{'s' * (len(sources) > 1)} (pixel = class id) and as many overlays")
    table = Table("class", "% of pixels")
    table.columns[1].justify = "right"
    for place in np.argsort(-pixels_C, kind="stable"):
        table.add_row(escape(one_line(meta["classes"][place])), f"{100 * pixels_C[place] / pixels_C.sum():.2f}")
    Console().print(table)


def export_command(run: Path, file: Path, cycle: int | None) -> None:
    """Export the run's model to `file` and say what came out."""
    checkpoint = find_checkpoint(run, cycle)
    with writing_into(file.parent, print, only=file.name):
        difference = export_onnx(checkpoint, file)
    size = file.stat().st_size / 2**20
    print(f"{file}: {size:.1f} MiB, opset {OPSET}, at most {difference:.1e} from PyTorch's logits ({checkpoint})")


def find_checkpoint(run: Path, cycle: int | None) -> Path:
    """The published checkpoint of a cycle, or of the last.  UserError names the cycles that there are."""
    layout = RunLayout(run)
    cycles = sorted(
        int(folder.parent.name.removeprefix("cycle-")) for folder in run.glob("cycle-[0-9][0-9][0-9]/checkpoint")
    )
    if not cycles:
        hint = "no cycle is trained yet" if is_run(run) else "not a run folder"
        raise UserError(f"{run}: {hint} (no cycle-*/checkpoint)")
    if cycle is not None and cycle not in cycles:
        raise UserError(f"{run}: no model of cycle {cycle}; there are {', '.join(map(str, cycles))}")
    return layout.checkpoint(cycles[-1] if cycle is None else cycle)


@torch.inference_mode()
def segment(predict: Predictor, image_HWC: UInt8, size: tuple[int, int], path: Path) -> UInt8:
    """Class ids (H, W) of an image of any size; FloatingPointError names `path` where the logits are not finite."""
    seen_HWC = np.ascontiguousarray(resize_image(image_HWC, size))
    logits_1Chw = predict(torch.from_numpy(seen_HWC).permute(2, 0, 1)[None], 1.0)
    if not torch.isfinite(logits_1Chw).all():
        raise FloatingPointError(f"image {path}: the network's output is not finite")
    full_1CHW = F.interpolate(logits_1Chw, image_HWC.shape[:2], mode="bilinear", align_corners=predict.align_corners)
    label_HW: UInt8 = top_class(full_1CHW)[1][0].byte().cpu().numpy()
    return label_HW


def export_onnx(checkpoint: Path, file: Path) -> float:
    """Write a checkpoint as one ONNX file and return its largest difference from PyTorch's logits.

    Input `image` (N, 3, H, W): RGB in 0..1, normalised by the mean and deviation in the metadata; H and W are those
    of the training data.  Output `logits` (N, C, H, W).  The file appears only after ONNX Runtime has given the same
    logits for one and for two random images; else InfrastructureError.
    """
    if file.is_dir():
        raise UserError(f"{file}: is a folder, expected FILE.onnx")
    check_folder(file.parent)
    meta = read_meta(checkpoint)
    network = FullResolution(load_network(checkpoint)).eval()
    generator = torch.Generator().manual_seed(0)
    image_NCHW = torch.randn(2, 3, meta["height"], meta["width"], generator=generator)
    with torch.inference_mode():
        network(image_NCHW)  # caches the decoder's upsampling matrices: made during the export, they come out wrong
    with written(file) as staged:
        with _quiet():
            torch.onnx.export(
                network,
                (image_NCHW,),
                staged,
                input_names=["image"],
                output_names=["logits"],
                dynamic_shapes={"image_NCHW": {0: torch.export.Dim("batch", min=1)}},
                opset_version=OPSET,
                external_data=False,
                dynamo=True,
            )
        _describe(staged, meta)
        difference = max(_difference(network, staged, image_NCHW[:count]) for count in (1, 2))
        if not difference <= TOLERANCE:
            raise InfrastructureError(f"{file}: ONNX Runtime's logits differ from PyTorch's by {difference:.1e}")
    return difference


class FullResolution(nn.Module):
    """Normalised images to logits at the size of the images, in operations that ONNX has."""

    def __init__(self, network: DeepLabV3Plus) -> None:
        super().__init__()
        self.network = network
        network.difficulty = None  # no part of the segmentation

    def forward(self, image_NCHW: Tensor) -> Tensor:
        logits_NChw: Tensor = self.network(image_NCHW).logits
        return F.interpolate(
            logits_NChw, image_NCHW.shape[2:], mode="bilinear", align_corners=self.network.align_corners
        )


def _describe(file: Path, meta: Mapping[str, Any]) -> None:
    model = onnx.load(file)
    facts = {"classes": meta["classes"], "palette": meta["palette"], "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in facts.items()})
    onnx.checker.check_model(model)
    onnx.save_model(model, file)


@torch.inference_mode()
def _difference(network: nn.Module, file: Path, image_NCHW: Tensor) -> float:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (logits_NCHW,) = session.run(["logits"], {"image": image_NCHW.numpy()})
    return float(np.abs(network(image_NCHW).numpy() - logits_NCHW).max())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports its progress on stdout, and warns about its own internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _sources(images: Path) -> dict[str, Path]:
    """Stem of the output -> image file, in the order of the paths."""
    if images.is_dir():
        found = sorted(path for path in images.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        if not found:
            raise UserError(f"{images}: no {' or '.join(SUFFIXES)} file in this folder")
    elif images.is_file():
        found = [images]
    else:
        raise UserError(f"{images}: no such file or folder")
    taken: dict[str, Path] = {}
    for path in found:
        for name in (path.stem, f"{path.stem}_overlay"):
            if name in taken:
                raise UserError(f"{path} and {taken[name]} would both be written to {name}.png")
            taken[name] = path
    return {path.stem: path for path in found}


def _check_out(out: Path, images: Path, sources: Mapping[str, Path]) -> None:
    """Never write over an image, nor where the next call would find masks among the images."""
    check_folder(out)
    if images.is_dir() and out.resolve().is_relative_to(images.resolve()):
        raise UserError(f"--out {out}: lies in the folder of the images; choose another one")
    for stem, path in sources.items():
        if (out / f"{stem}.png").resolve() == path.resolve():
            raise UserError(f"--out {out}: the mask would overwrite {path}")


def _write_mask(file: Path, label_HW: UInt8, palette: list[list[int]]) -> None:
    mask = Image.fromarray(label_HW, mode="P")
    mask.putpalette([part for colour in palette for part in colour])
    with written(file) as staged:
        mask.save(staged, "png")
