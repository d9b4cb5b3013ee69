"""`s4al ingest`: options to a call of `ingest`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from benchmarks.datasets.doctor import split_warnings
from benchmarks.datasets.ingest import ingest
from orchestrator.annotation.rounds import is_project
from orchestrator.process.interrupt import handled
from orchestrator.process.progress import shown
from querying.base.errors import UserError
from querying.base.storage.place import Place, Remote

_FOLDER: dict[str, Any] = {
    "images": None, "masks": None, "mask_suffix": None, "image_suffix": "", "no_masks": False, "splits": "auto",
    "ignore": [], "maps": [], "values": "auto", "exif": "auto", "bits": None, "shapes": None,
}  # fmt: skip
"""Options of `ingest folder` alone, with their defaults."""
_CHOICES = {
    "splits": ("auto", "folders", "draw"),
    "values": ("auto", "ids", "colours"),
    "exif": ("auto", "apply", "ignore"),
}


def ingest_command(
    kind: str,
    paths: list[Place],
    size: str | None,
    shard_size: int,
    encoding: str,
    *,
    dry_run: bool = False,
    sheet: Path | None = None,
    allow_duplicates: bool = False,
    **options: Any,
) -> None:
    wanted = 1 if kind == "toy" else 2
    if len(paths) != wanted and not (dry_run and len(paths) == 1):
        raise UserError(f"s4al ingest {kind} takes {'DST' if wanted == 1 else 'SRC DST'}, got {len(paths)} paths")
    if encoding not in ("ppm", "png", "jpeg"):
        raise UserError(f"--encoding {encoding!r}: expected ppm, png or jpeg")
    if sheet is not None and not dry_run:
        raise UserError(f"--sheet {sheet}: only with --dry-run")
    src = None if kind == "toy" else paths[0]
    if isinstance(src, Remote):
        raise UserError(f"{src}: the raw data have to be in a folder here; only DST may be in a bucket")
    given: dict[str, Any] = {
        "src": src,
        "size": parse_size(size) if size else None,
        "allow_duplicates": allow_duplicates,
    }
    own = _own_options(kind, src, options)
    if dry_run:
        from benchmarks.commands.ingest_preview import preview

        beside = paths[-1] if len(paths) == wanted else Path(f"{src.resolve().name}-ingest" if src else "toy-ingest")
        beside = beside if isinstance(beside, Path) else Path(Path(beside.key).name or beside.bucket)
        preview(kind, sheet=sheet or beside.with_name(f"{beside.name}.png"), **given, **own)
        return
    with handled(), shown() as progress:
        progress.stage(f"ingest {kind}")
        index = ingest(
            kind,
            dst=paths[-1],
            shard_size=shard_size,
            encoding=encoding,
            progress=lambda done, total: progress.update(done, total, "images"),
            **given,
            **own,
        )
    for warning in split_warnings(index):
        print(f"warning: {warning}")
    counts = ", ".join(f"{index.num_images(split)} {split}" for split in index.splits)
    of = "several sizes, at most " if index.several_sizes else ""
    print(f"{paths[-1]}: {counts} images of {of}{index.height}x{index.width}, {index.num_classes} classes, {encoding}")


def _own_options(kind: str, src: Path | None, options: dict[str, Any]) -> dict[str, Any]:
    """What the kind's `load` takes; UserError for an option of another kind, which would do nothing."""
    if kind != "folder":
        idle = [name for name, usual in _FOLDER.items() if options.get(name, usual) != usual]
        idle = [name for name in idle if (kind, name) != ("toy", "images")]
        if idle:
            option = {"maps": "map"}.get(idle[0], idle[0].replace("_", "-"))
            raise UserError(f"--{option}: only for s4al ingest folder, not for {kind}")
    if kind == "toy":
        return {"num_classes": options["num_classes"], "seed": options["seed"], **_counts(options["images"])}
    if kind == "cityscapes":
        return {"protocol": options["protocol"], "seed": options["seed"]}
    if kind == "camvid":
        return {}
    for name, choices in _CHOICES.items():
        if options.get(name, "auto") not in choices:
            raise UserError(f"--{name} {options[name]!r}: expected {', '.join(choices)}")
    own = {name: options.get(name, usual) for name, usual in _FOLDER.items()}
    if options["classes"] is None:
        assert src is not None
        if is_project(src):
            return {**own, "classes_file": src / "classes.txt", "seed": options["seed"]}
        raise _without_classes(src, own)
    return {**own, "classes_file": options["classes"], "seed": options["seed"]}


def _without_classes(src: Path, own: dict[str, Any]) -> UserError:
    """The mistake; a class file for the masks that are there is printed before."""
    from benchmarks.datasets.sources.proposal import propose_classes

    needs = "s4al ingest folder needs --classes FILE (one class name per line)"
    try:
        text = propose_classes(src, own) if src.is_dir() else ""
    except UserError as error:
        return UserError(f"{needs}; {error}")
    if not text:
        return UserError(f"{needs}, perhaps followed by r g b")
    print(text, end="")
    return UserError(f"{needs}; printed above is one for what is in the masks of {src}: give its classes their names")


def parse_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if not match or min(map(int, match.groups())) < 16:
        raise UserError(f"--size {text!r}: expected HEIGHTxWIDTH of at least 16 pixels, such as 360x480")
    return int(match[1]), int(match[2])


def _counts(text: str | None) -> dict[str, tuple[int, int, int]]:
    if text is None:
        return {}
    if not re.fullmatch(r"[1-9]\d{0,6}(,[1-9]\d{0,6}){2}", text):
        raise UserError(f"--images {text!r}: expected TRAIN,VAL,TEST such as 160,16,48")
    train, val, test = map(int, text.split(","))
    return {"counts": (train, val, test)}
