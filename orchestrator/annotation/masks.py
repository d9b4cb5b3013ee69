"""Answers about whole images as mask files, for `s4al ingest folder`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from orchestrator.annotation.given import Cell, Given, Rule, common, state_of
from orchestrator.annotation.package import file_names
from querying.base.files import written
from querying.dataset.codecs import encode_label
from querying.labels.regions import WHOLE

MASKS = "masks"
LONGEST_NAME = 200


def mask_path(project: Path, image_id: str) -> Path:
    """Where the mask of an image is: under its id, or what a file can be called."""
    fits = len(os.fsencode(image_id)) <= LONGEST_NAME and "\0" not in image_id and "/" not in image_id
    return project / MASKS / (f"{image_id}.png" if fits else file_names([image_id])[image_id])


def write_masks(project: Path, cells: Mapping[Cell, Mapping[str, Given]], rule: Rule) -> list[Path]:
    """A PNG of class ids (255 = void) for every image that was answered; returns those that were new or changed."""
    found = _different(project, cells, rule)
    for path, content in found.items():
        with written(path) as staged:
            staged.write_bytes(content)
    return list(found)


def different_masks(project: Path, cells: Mapping[Cell, Mapping[str, Given]], rule: Rule) -> list[Path]:
    """The mask files that are not what was answered, or not there."""
    return list(_different(project, cells, rule))


def _different(project: Path, cells: Mapping[Cell, Mapping[str, Given]], rule: Rule) -> dict[Path, bytes]:
    wanted = {mask_path(project, image_id): encode_label(common(given.values(), rule))
              for image_id, given in _answered(cells)}  # fmt: skip
    return {path: content for path, content in wanted.items()
            if not path.is_file() or path.read_bytes() != content}  # fmt: skip


def _answered(cells: Mapping[Cell, Mapping[str, Given]]) -> Iterable[tuple[str, Mapping[str, Given]]]:
    for (image_id, region), given in cells.items():
        if region == WHOLE and state_of(given) == "answered":
            yield image_id, given
