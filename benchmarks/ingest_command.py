"""`s4al ingest`: options to a call of `ingest`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from benchmarks.ingest import ingest
from orchestrator.interrupt import handled
from orchestrator.progress import shown
from querying.errors import UserError


def ingest_command(
    kind: str, paths: list[Path], size: str | None, shard_size: int, encoding: str, **options: Any
) -> None:
    wanted = 1 if kind == "toy" else 2
    if len(paths) != wanted:
        raise UserError(f"s4al ingest {kind} takes {'DST' if wanted == 1 else 'SRC DST'}, got {len(paths)} paths")
    if encoding not in ("ppm", "png", "jpeg"):
        raise UserError(f"--encoding {encoding!r}: expected ppm, png or jpeg")
    own = {
        "toy": {"num_classes": options["num_classes"], "seed": options["seed"], **_counts(options["images"])},
        "cityscapes": {"protocol": options["protocol"], "seed": options["seed"]},
        "folder": {"classes_file": options["classes"], "seed": options["seed"]},
        "camvid": {},
    }[kind]
    if kind == "folder" and options["classes"] is None:
        raise UserError("s4al ingest folder needs --classes FILE (one class name per line)")
    with handled(), shown() as progress:
        progress.stage(f"ingest {kind}")
        index = ingest(
            kind,
            None if kind == "toy" else paths[0],
            paths[-1],
            size=parse_size(size) if size else None,
            shard_size=shard_size,
            encoding=encoding,
            allow_duplicates=options["allow_duplicates"],
            progress=lambda done, total: progress.update(done, total, "images"),
            **own,
        )
    counts = ", ".join(f"{index.num_images(split)} {split}" for split in index.splits)
    print(f"{paths[-1]}: {counts} images of {index.height}x{index.width}, {index.num_classes} classes, {encoding}")


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
