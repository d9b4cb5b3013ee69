"""Which images are labelled whole before cycle 0: drawn, or named by a list.  Decided once, then a file of the run."""

from __future__ import annotations

import hashlib
import logging
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from heapq import nsmallest
from pathlib import Path, PurePosixPath
from typing import Any

from orchestrator.annotation.annotator import Annotator
from orchestrator.folder.manifest import set_aside
from orchestrator.folder.shapes import LabelledSet, read_shaped
from orchestrator.recipe.config import RunConfig
from querying.base.arrow_file import unaltered
from querying.base.errors import DamagedError, UserError
from querying.base.files import user_path, write_json

LOG = logging.getLogger(__name__)
LISTS = Path(__file__).parent / "split_lists"
"""Published lists that come with the program; origin and licence are in its README."""
_IMAGE_SUFFIX = re.compile(r"\.(png|jpe?g|jpe|jfif|bmp|p[pgn]m|tiff?)$", re.IGNORECASE)
_TAIL = "_leftImg8bit"  # of Cityscapes' file names


def labelled_set(
    config: RunConfig, annotator: Annotator, total: int, path: Path, bought: Sequence[str] | None
) -> dict[str, Any]:
    """The images to label first, as written in `path`; decided and written there where it is not.

    source: where they are from; source_sha256: of the list file, if one; sha256: of the sorted ids; ids.  What the
    ledger says was `bought` (None: nothing yet) is not decided again, should `path` be lost or damaged.
    """
    if path.exists():
        try:
            there = read_shaped(path, LabelledSet)
            if same_source(there["source"], config):
                return there
            why = f"{path}: {there['source']}, where the recipe says: {source_of(config)}"
        except DamagedError as error:
            why = str(error)
        LOG.warning("%s: set aside as %s, decided again", why, set_aside(path).name)
    source, digest = source_of(config), None
    with unaltered():
        if bought is not None:
            ids = list(bought)
        elif config.initial.list:
            names, digest = read_list(config.initial.list)
            ids = find_ids(names, annotator.answerable(), where=config.initial.list)
        else:
            classes = annotator.classes() if config.initial.cover else None
            ids = draw(config.seed, annotator.answerable(), initial_count(config, total), classes)
    ids = sorted(ids)
    found = {"source": source, "source_sha256": digest, "sha256": ids_sha256(ids), "ids": ids}
    write_json(path, found)
    return found


def source_of(config: RunConfig) -> str:
    """Where the first images are from, in words."""
    return f"list {config.initial.list}" if config.initial.list else f"drawn with seed {config.seed}"


def same_source(there: str, config: RunConfig) -> bool:
    """May a set that is from `there` be this recipe's?  A list may lie elsewhere now."""
    here = source_of(config)
    return there == here or bool(config.initial.list and there.startswith("list "))


def initial_count(config: RunConfig, total: int) -> int:
    """How many of `total` train images are labelled first."""
    if config.initial.list:
        return len(read_list(config.initial.list)[0])
    return config.initial.images or max(1, round(total * config.initial.fraction))


def draw(
    seed: int, answerable: Sequence[str], count: int, classes: Mapping[str, Collection[int]] | None = None
) -> list[str]:
    """`count` of the images (all, where there are fewer), by hashing (seed, id): never by their order or number.

    Draws of one seed are nested: a smaller one lies in every larger one.  With `classes` (of each image), the first
    images of the order are those that show a class which none before them shows, so that a draw has every class;
    UserError says how many images that takes.
    """

    def turn(image_id: str) -> bytes:
        return hashlib.sha256(f"{seed}/{image_id}".encode()).digest()

    if classes is None:
        return nsmallest(count, answerable, key=turn)  # which holds no more than these
    order = sorted(answerable, key=turn)
    seen: set[int] = set()
    first = []
    for image_id in order:
        if not seen.issuperset(classes[image_id]):
            first.append(image_id)
            seen.update(classes[image_id])
    if count < len(first):
        raise UserError(
            f"initial.cover=true: with seed {seed} it takes {len(first)} images to show all {len(seen)} classes,"
            f" more than the {count} asked for"
        )
    front = set(first)
    order = first + [image_id for image_id in order if image_id not in front]
    return order[:count]


def read_list(source: str) -> tuple[list[str], str]:
    """Lines of a list that name an image each, and the SHA-256 of its file: one of `shipped_lists`, or a text file.

    What in a line is the name is decided by `find_ids`, which knows the images.  UserError where there is no such list,
    it is empty, or a line is in it twice.
    """
    path = LISTS / f"{source}.txt" if source in shipped_lists() else user_path("initial.list", source)
    try:
        content = path.read_bytes()
        lines = content.decode("utf-8-sig").splitlines()  # Windows editors put a mark in front
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(shipped_lists())
        raise UserError(f"initial.list={source}: cannot be read ({error}); lists that come along: {known}") from None
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise UserError(f"initial.list={source}: names no image")
    _refuse_twice(names, source)
    return names, hashlib.sha256(content).hexdigest()


def shipped_lists() -> list[str]:
    return sorted(str(path.relative_to(LISTS).with_suffix("")) for path in LISTS.rglob("*.txt"))


def find_ids(lines: Sequence[str], answerable: Sequence[str], *, where: str) -> list[str]:
    """The image id that each line means: its name itself, or without folders, file type and `_leftImg8bit`.

    The name is a line's first column, so that UniMatch's (image and mask) and U2PL's (image) files can be read as they
    are; where that is no image, as many words as make one, so that a name may have spaces and commas; or what stands in
    quotes.  UserError where a line means no image, or two different ones.
    """
    known = set(answerable)
    composed = {unicodedata.normalize("NFC", image_id): image_id for image_id in answerable}  # macOS writes NFD
    ids: list[str] = []
    for line in lines:
        found: dict[str, str] = {}
        for words in _names(line):
            for candidate in _meanings(words):
                meant = candidate if candidate in known else composed.get(unicodedata.normalize("NFC", candidate))
                if meant is not None:
                    found.setdefault(meant, words)
                    break
        if not found:
            raise UserError(f"initial.list={where}: {line}: no image of the train split that has a mask")
        if len(found) > 1:
            raise UserError(
                f"initial.list={where}: {line}: could mean {' or '.join(found)}; put the image's name in double quotes"
            )
        ids.extend(found)
    _refuse_twice(ids, where)
    return ids


def ids_sha256(ids: Sequence[str]) -> str:
    """The hash of the sorted ids, one a line: the same set has the same hash, whatever list it is from."""
    return hashlib.sha256("".join(f"{image_id}\n" for image_id in sorted(ids)).encode()).hexdigest()


def _names(line: str) -> list[str]:
    """What may be the image's name in a line: its first column, its first two, ..., all of it; or what is quoted."""
    if quoted := re.match(r'"([^"]+)"(?=[\s,;]|$)', line):
        return [quoted[1]]
    return [*(line[: gap.start()] for gap in re.finditer(r"[\s,;]+", line) if gap.start()), line]


def _meanings(name: str) -> list[str]:
    bare = _IMAGE_SUFFIX.sub("", name)
    parts = PurePosixPath(bare.removesuffix(_TAIL)).parts
    tails = [parts[start:] for start in range(len(parts))]
    return [name, bare, *(mark.join(tail) for tail in tails for mark in ("/", "__"))]  # folder data sets have __ for /


def _refuse_twice(names: Sequence[str], where: str) -> None:
    if len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise UserError(f"initial.list={where}: {twice} is in it twice")
