"""Use the model that came out: segment images (`s4al predict`), or hand it on as ONNX (`s4al export`)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from rich.table import Table

from benchmarks.datasets.files.images import is_turned, read_rgb, resize_image
from benchmarks.datasets.files.listing import READ, list_images, named
from benchmarks.deploy.onnx_file import MIN_SIDE, OPSET, export_onnx
from benchmarks.figures.legend import with_legend
from benchmarks.figures.style import blend
from orchestrator.folder.layout import RunLayout
from orchestrator.folder.recipe_file import is_run
from orchestrator.process.progress import shown
from orchestrator.process.terminal import console
from querying.base.errors import UserError
from querying.base.files import NAME_MAX, check_folder, written
from querying.base.leftovers import writing_into
from querying.dataset.codecs import UInt8
from querying.labels.pseudo_labels import top_class
from training.inference.predictor import Predictor
from training.network.checkpoint import read_meta


def predict_command(
    run: Path,
    images: Path,
    out: Path,
    cycle: int | None,
    legend: bool = False,
    confidence: bool = False,
    bits: int | None = None,
) -> None:
    """Write OUT/<stem>.png (palette PNG whose pixels are class ids) and OUT/<stem>_overlay.png for every image.

    Images are turned upright as EXIF says, which is said.  The network sees them at the size of the training data: one
    of another size is resized for it, and its logits are brought back to the image's own size, so masks always have the
    size of their image.  `images` is a file or a folder (searched through, as by `s4al ingest`); what is left out of it
    is said.  `legend` writes the classes of an image, with their shares, below its overlay; `confidence` writes
    OUT/<stem>_confidence.png too: grey, 255 times the probability of the class that was chosen.  `bits`: of images of
    16 bits, as in `read_rgb`.

    UserError where there is no image, two would be written to the same file, or an image could not be read: that one
    is named and left out, after all others are written.
    """
    checkpoint = find_checkpoint(run, cycle)
    sources, notes = _sources(images)
    files = _files(sources, out, confidence)
    _check_out(out, images, files)
    meta = read_meta(checkpoint)
    size = meta["height"], meta["width"]
    predict = Predictor(checkpoint)
    pixels_C = np.zeros(len(meta["classes"]), np.int64)
    replaced = sum(file.exists() for paths in files.values() for file in paths)
    failed, stretched, turned = [], [], []
    with shown() as progress, writing_into(out, progress.say):
        for line in [*notes, *([f"{out}: {replaced} files of before are replaced"] if replaced else [])]:
            progress.say(line)
        progress.stage(f"segment {len(sources)} image{'s' * (len(sources) > 1)} with {checkpoint}")
        for done, path in enumerate(sources, 1):
            try:
                image_HWC = read_rgb(path, bits)
                turned += [path] if is_turned(path) else []
            except UserError as error:
                failed.append(str(error))
                progress.say(f"left out: {error}")
                continue
            label_HW, confidence_HW = segment(predict, image_HWC, size, path, confidence)
            if abs(image_HWC.shape[1] * size[0] - image_HWC.shape[0] * size[1]) > 0.01 * size[1] * image_HWC.shape[0]:
                stretched.append(path)
            count_C = np.bincount(label_HW.ravel(), minlength=len(pixels_C))
            pixels_C += count_C
            overlay_HWC = blend(image_HWC, label_HW, meta["palette"], strength=0.55)
            if legend:
                overlay_HWC = with_legend(overlay_HWC, count_C, meta["classes"], meta["palette"])
            _write(files[path][0], Image.fromarray(label_HW, mode="P"), meta["palette"])
            _write(files[path][1], Image.fromarray(overlay_HWC))
            if confidence_HW is not None:
                _write(files[path][2], Image.fromarray(confidence_HW))
            progress.update(done, len(sources), "images")
    written_images = len(sources) - len(failed)
    print(f"{out}: {written_images} mask{'s' * (written_images != 1)} (pixel = class id) and as many overlays"
          + (" and confidence maps (255 = certain)" if confidence else ""))  # fmt: skip
    if turned:
        print(f"turned upright as EXIF says, and so are their masks: {named(turned, 'image')}; a model of images that"
              " were ingested with --exif ignore has seen such images as they are stored")  # fmt: skip
    if stretched:
        print(f"not of the shape {size[0]}x{size[1]} that was trained on, hence stretched: {named(stretched)}")
    if pixels_C.any():
        _print_shares(meta["classes"], pixels_C)
    if failed:
        more = f" (and {len(failed) - 1} more, named above)" if len(failed) > 1 else ""
        raise UserError(f"{len(failed)} of {len(sources)} images were left out: {failed[0]}{more}")


def export_command(run: Path, file: Path, cycle: int | None) -> None:
    """Export the run's model to `file` and say what came out."""
    checkpoint = find_checkpoint(run, cycle)
    with writing_into(file.parent, print, only=file.name):
        agreement = export_onnx(checkpoint, file)
    size = file.stat().st_size / 2**20
    only = agreement.size
    takes = f"images of {only[0]}x{only[1]}" if only else f"any height and width from {MIN_SIDE} pixels"
    print(f"{file}: {size:.1f} MiB, opset {OPSET}, {takes} ({checkpoint})")
    print(f"against PyTorch: {agreement}")


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
def segment(
    predict: Predictor, image_HWC: UInt8, size: tuple[int, int], path: Path, confidence: bool = False
) -> tuple[UInt8, UInt8 | None]:
    """Class ids (H, W) of an image of any size and, with `confidence`, 255 times the probability of each.
    FloatingPointError names `path` where the logits are not finite."""
    seen_HWC = np.ascontiguousarray(resize_image(image_HWC, size))
    logits_1Chw = predict(torch.from_numpy(seen_HWC).permute(2, 0, 1)[None], 1.0)
    if not torch.isfinite(logits_1Chw).all():
        raise FloatingPointError(f"image {path}: the network's output is not finite")
    full_1CHW = F.interpolate(logits_1Chw, image_HWC.shape[:2], mode="bilinear", align_corners=predict.align_corners)
    label_HW: UInt8 = top_class(full_1CHW)[1][0].byte().cpu().numpy()
    if not confidence:
        return label_HW, None
    return label_HW, full_1CHW.softmax(dim=1).amax(dim=1)[0].mul(255).round().byte().cpu().numpy()


def _sources(images: Path) -> tuple[list[Path], list[str]]:
    """The image files, and what to say of those that are left out."""
    if images.is_dir():
        found = list_images(images)
        if not found.images:
            left_out = f" ({'; '.join(found.notes())})" if found.left_out else ""
            raise UserError(f"{images}: no image in this folder ({', '.join(READ)}){left_out}")
        return found.images, found.notes()
    if not images.is_file():
        raise UserError(f"{images}: no such file or folder")
    return [images], []


def _files(sources: Sequence[Path], out: Path, confidence: bool) -> dict[Path, list[Path]]:
    """Image -> mask, overlay and perhaps confidence map.  UserError where two images would be written to one file."""
    taken: dict[str, Path] = {}
    files: dict[Path, list[Path]] = {}
    for path in sources:
        for kind in ("", "_overlay", *(["_confidence"] if confidence else [])):
            name = f"{path.stem}{kind}.png"
            if len(os.fsencode(name)) > NAME_MAX:  # room for the kind, and still another name for another image
                key = hashlib.sha256(os.fsencode(path.stem)).hexdigest()[:16]
                name = f"{os.fsencode(path.stem)[:120].decode(errors='ignore')}~{key}{kind}.png"
            if name in taken:
                raise UserError(
                    f"{path} and {taken[name]} would both be written to {name}: predict them into two folders, or"
                    " rename one"
                )
            taken[name] = path
            files.setdefault(path, []).append(out / name)
    return files


def _check_out(out: Path, images: Path, files: Mapping[Path, Sequence[Path]]) -> None:
    """Never write over an image, nor where the next call would find masks among the images."""
    check_folder(out)
    if images.is_dir() and out.resolve().is_relative_to(images.resolve()):
        raise UserError(f"--out {out}: lies in the folder of the images; choose another one")
    for path, written_files in files.items():
        for file in written_files:
            if file.resolve() == path.resolve():
                raise UserError(f"--out {out}: the mask would overwrite {path}")
            if file.is_dir():
                raise UserError(f"--out {out}: {file.name} is a folder there; choose another one")


def _write(file: Path, image: Image.Image, palette: Sequence[Sequence[int]] = ()) -> None:
    if palette:
        image.putpalette([part for colour in palette for part in colour])
    with written(file) as staged:
        image.save(staged, "png")


def _print_shares(classes: Sequence[str], pixels_C: npt.NDArray[np.int64]) -> None:
    table = Table("class", "% of pixels")
    table.columns[1].justify = "right"
    for place in np.argsort(-pixels_C, kind="stable"):
        table.add_row(classes[place], f"{100 * pixels_C[place] / pixels_C.sum():.2f}")
    console().print(table)
