"""A checkpoint as one ONNX file for images of any size, kept where ONNX Runtime computes what PyTorch does."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from querying.base.errors import InfrastructureError, UserError
from querying.base.files import check_folder, written
from training.inference.predictor import load_network
from training.network.checkpoint import read_meta
from training.network.decoder import UpsampleConcatConv, traced_shift_matrix, upsample_shift_matrix
from training.network.normalisation import IMAGENET_MEAN, IMAGENET_STD
from training.network.segmenter import Segmenter

OPSET = 18
MIN_SIDE = 32
"""Smallest height and width of an image, in pixels: one cell of the deepest map has so many."""
ROUNDING = 1e-4
"""Largest difference from PyTorch's logits that is kept, as a share of their spread.  float32 in another order of the
operations has given 1e-6 to 1e-5; with 10 or 8 bits (TF32, bf16) it would be some 1e-3 to 1e-2."""
SAME = 0.99
"""Smallest share of pixels with PyTorch's class: a spread that a few large logits make says nothing of the others."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How near the logits of ONNX Runtime are to PyTorch's, over random images of two sizes."""

    relative: float
    """Largest difference as a share of the spread of PyTorch's logits (largest minus smallest), of the worse size."""
    pixels: int
    same: int
    """Pixels with the same class."""
    clear: int
    """Pixels whose best class leads by more than what ROUNDING on both logits could turn round."""
    clear_same: int
    size: tuple[int, int] | None = None
    """Height and width, where the file takes no others."""

    @property
    def is_rounding(self) -> bool:
        """False also where a logit is not finite."""
        return self.relative <= ROUNDING and self.same >= SAME * self.pixels

    def __str__(self) -> str:
        clear = f"; of the {self.clear:,} with a margin above rounding {_percent(self.clear_same, self.clear)} %"
        return (
            f"largest difference {self.relative:.1e} of the logits' spread, the same class in"
            f" {_percent(self.same, self.pixels)} % of {self.pixels:,} pixels{clear if self.clear else ''}"
        )


def export_onnx(checkpoint: Path, file: Path) -> Agreement:
    """Write a checkpoint as one ONNX file and return how near its logits are to PyTorch's.

    Input `image` (N, 3, H, W): RGB in 0..1, normalised by the mean and deviation in the metadata; any N, and any H and
    W of at least MIN_SIDE, but those of the training alone where the encoder depends on the size (`one_size`): what was
    trained on is in the metadata, too.  Output `logits` (N, C, H, W).  The file appears only after
    ONNX Runtime has given the same logits, within float32's rounding, for random images of the training size and of
    another; else InfrastructureError says by how much they differ.
    """
    if file.is_dir():
        raise UserError(f"{file}: is a folder, expected FILE.onnx")
    check_folder(file.parent)
    meta = read_meta(checkpoint)
    network = FullResolution(load_network(checkpoint)).eval()
    generator = torch.Generator().manual_seed(0)
    size = max(meta["height"], MIN_SIDE), max(meta["width"], MIN_SIDE)
    other = max(2 * size[0] // 3 + 1, MIN_SIDE), max(2 * size[1] // 3 + 1, MIN_SIDE + 1)
    one_size = bool(getattr(network.network.encoder, "one_size", False))
    if one_size:
        size = other = meta["height"], meta["width"]
    images = [torch.randn(count, 3, *hw, generator=generator) for count, hw in ((2, size), (1, other))]
    free = {0: torch.export.Dim("batch", min=1)}
    if not one_size:
        free |= {axis: torch.export.Dim(name, min=MIN_SIDE) for axis, name in ((2, "height"), (3, "width"))}
    with written(file) as staged:
        with _quiet(), _traceable(network):
            torch.onnx.export(
                network,
                (images[0],),
                staged,
                input_names=["image"],
                output_names=["logits"],
                dynamic_shapes={"image_NCHW": free},
                opset_version=OPSET,
                external_data=False,
                dynamo=True,
            )
        _describe(staged, meta, one_size)
        agreement = replace(_compare(network, staged, images), size=size if one_size else None)
        if not agreement.is_rounding:
            raise InfrastructureError(
                f"{file}: not written: ONNX Runtime does not compute what PyTorch does: {agreement} (expected at most"
                f" {ROUNDING:.0e}); the run's checkpoint is as it was, and other versions of torch or onnxruntime may"
                " agree"
            )
    return agreement


class FullResolution(nn.Module):
    """Normalised images to logits at the size of the images, in operations that ONNX has."""

    def __init__(self, network: Segmenter) -> None:
        super().__init__()
        self.network = network
        network.difficulty = None  # no part of the segmentation

    def forward(self, image_NCHW: Tensor) -> Tensor:
        logits_NChw: Tensor = self.network(image_NCHW).logits
        return F.interpolate(
            logits_NChw, image_NCHW.shape[2:], mode="bilinear", align_corners=self.network.align_corners
        )


@contextlib.contextmanager
def _traceable(network: nn.Module) -> Iterator[None]:
    """The decoder's matrices as operations: as constants they would hold for one size alone."""
    convolutions = [module for module in network.modules() if isinstance(module, UpsampleConcatConv)]
    try:
        for convolution in convolutions:
            convolution.matrix = traced_shift_matrix
        yield
    finally:
        for convolution in convolutions:
            convolution.matrix = upsample_shift_matrix


def _describe(file: Path, meta: Mapping[str, Any], one_size: bool) -> None:
    model = onnx.load(file)
    facts = {"classes": meta["classes"], "palette": meta["palette"], "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    facts["trained_on"] = [meta["height"], meta["width"]]
    facts |= {"only_size": facts["trained_on"]} if one_size else {}
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in facts.items()})
    onnx.checker.check_model(model)
    onnx.save_model(model, file)


@torch.inference_mode()
def _compare(network: nn.Module, file: Path, images: list[Tensor]) -> Agreement:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    found = []
    for image_NCHW in images:
        (logits_NCHW,) = session.run(["logits"], {"image": image_NCHW.numpy()})
        found.append(compare_logits(network(image_NCHW).numpy(), logits_NCHW))
    counts = np.sum([[one.pixels, one.same, one.clear, one.clear_same] for one in found], axis=0).tolist()
    return Agreement(float(np.max([one.relative for one in found])), *counts)  # of NaN and a number, NaN


def compare_logits(expected_NCHW: npt.NDArray[np.float32], found_NCHW: npt.NDArray[np.float32]) -> Agreement:
    """How far two arrays (N, C, H, W) of one shape agree; C is at least 2."""
    difference, spread = np.abs(expected_NCHW - found_NCHW).max(), np.ptp(expected_NCHW)
    second_NHW, best_NHW = np.moveaxis(np.partition(expected_NCHW, -2, axis=1)[:, -2:], 1, 0)
    clear_NHW = best_NHW - second_NHW > 2 * ROUNDING * spread
    same_NHW = expected_NCHW.argmax(axis=1) == found_NCHW.argmax(axis=1)
    relative = difference / spread if spread else difference  # logits that are all the same have no rounding
    return Agreement(
        float(relative), same_NHW.size, int(same_NHW.sum()), int(clear_NHW.sum()), int(same_NHW[clear_NHW].sum())
    )


def _percent(part: int, whole: int) -> str:
    """Rounded down: 100 means all."""
    return f"{int(100_000 * part / whole) / 1000:g}"


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
