"""Plain folders: a package as images and masks for any editor, and the masks that come back, in a folder or a zip."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL.ImageFile import ImageFile

from benchmarks.datasets.files.image_files import opened
from benchmarks.datasets.files.images import check_mask, map_ids, read_mask
from benchmarks.datasets.files.listing import JPEG, LOSSLESS
from benchmarks.formats.dropped import EMPTY, OTHER_FILES, Dropped
from benchmarks.formats.labels import Colour, colours, image_bytes, label_ids, other_size, pre_label, shown
from benchmarks.formats.members import Members, files_below, write as write_zip
from benchmarks.formats.pictures import framed_png, palette_png
from orchestrator.annotation.answer import Answer
from orchestrator.annotation.package import AskedImage, Package
from querying.base.errors import UserError
from querying.dataset.codecs import UInt8
from querying.dataset.label_values import IGNORE

MASKS, QUERY, _WITHOUT_PRE = "masks", "query.json", "without_pre"
_MOST_QUERY = 2**22
BLANK = 254
"""What a mask holds where nobody has painted; only where there are fewer classes."""
_OURS = ("images", "pre", "frames", "README.txt", "classes.json")
_BLACK = (0, 0, 0)


def write(package: Package, images: Sequence[AskedImage], pre: Collection[str], out: Path) -> None:
    """Write README.txt, classes.json, query.json, images/, an empty masks/, and frames/ and pre/ as far as there are
    any."""
    for name in ("images", MASKS):
        (out / name).mkdir()
    for one in images:
        (out / "images" / one.file).write_bytes(image_bytes(package, one))
        if any(box[0] >= 0 for box in one.boxes):
            (out / "frames").mkdir(exist_ok=True)
            (out / "frames" / one.file).write_bytes(framed_png(package, one))
        if one.image_id in pre and package.pre(one) is not None:
            (out / "pre").mkdir(exist_ok=True)
            label_HW = pre_label(package, one)
            if _has_blank(package):
                label_HW[label_HW == IGNORE] = BLANK
            (out / "pre" / one.file).write_bytes(palette_png(label_HW, package))
    of = colours(package)
    rows = [
        {"value": label, "name": name, "color": f"#{bytes(of[label]).hex()}"}
        for name, label in label_ids(package).items()
    ]
    (out / "classes.json").write_text(json.dumps(rows, indent=1) + "\n")
    bare = [one.rank for one in images if one.image_id not in pre and package.pre(one) is not None]
    query = {"query_id": package.query_id, **({_WITHOUT_PRE: bare} if bare else {})}
    (out / QUERY).write_text(json.dumps(query) + "\n")
    note = f" and {BLANK}, black, where nothing is painted" if _has_blank(package) else ""
    (out / "README.txt").write_text(_README.format(count=len(images), note=note), encoding="utf-8")


def _has_blank(package: Package) -> bool:
    return len(package.classes) <= BLANK


def pack(folder: Path, package: Package, out: Path) -> None:
    """The folder's answers as a zip archive, always the same: what is read afterwards no longer changes."""
    most = max(map(_most, package.images))
    query = list(files_below(folder, QUERY, most)) if (folder / QUERY).exists() else []
    write_zip(out, iter([*query, *files_below(folder, MASKS, most)]))


def read(package: Package, members: Members, dropped: Dropped) -> Iterator[Answer]:
    """An answer for each mask below masks/, named as its image; UserError names the mask that is not right."""
    bare = _without_pre(package, members)
    of = {one.file.removesuffix(".png"): one for one in package.images}
    found: dict[str, str] = {}
    for name in members.names:
        path = PurePosixPath(name)
        if path.parts[0] in _OURS or name == QUERY:
            continue
        if str(path.parent) != MASKS:
            raise UserError(f"{members.where(name)}: is not asked for; leave {MASKS}/ with the masks, and nothing else")
        stem = path.stem
        if stem not in of:
            raise UserError(f"{members.where(name)}: is no image of this package; leave it out")
        if path.suffix.lower() in JPEG:
            raise UserError(f"{members.where(name)}: a mask must be PNG: JPEG changes labels")
        if path.suffix.lower() not in LOSSLESS:
            raise UserError(f"{members.where(name)}: a mask must be one of {', '.join(LOSSLESS)}; convert or remove it")
        if (twin := found.setdefault(stem, name)) != name:
            raise UserError(f"{members.where(name)}: {twin} is a mask of the same image; leave one of them")
    dropped[OTHER_FILES] += members.leavings
    for one in package.images:
        if name := found.get(one.file.removesuffix(".png"), ""):
            label_HW, painted_HW = _labels(package, one, members, name)
            if not painted_HW.any():
                dropped[EMPTY] += 1
                continue
            text = f"folder:{package.query_id}:{one.image_id}:".encode() + label_HW.tobytes() + painted_HW.tobytes()
            digest, shown_pre = hashlib.sha256(text).hexdigest(), one.rank not in bare
            yield Answer(one.image_id, "", digest, None, "", label_HW, painted_HW, 0, shown_pre)


def _without_pre(package: Package, members: Members) -> Collection[int]:
    """Ranks of the images that were exported without their pre-annotation, as far as that is known.  UserError where
    the export was of another query."""
    if QUERY not in members.names:
        return ()
    where = members.where(QUERY)
    try:
        data: Any = json.loads(members.read(QUERY, _MOST_QUERY))
    except (ValueError, RecursionError):
        raise UserError(f"{where}: is not what was exported; remove it, and the masks are matched by name") from None
    found = data.get("query_id") if isinstance(data, dict) else None
    if found != package.query_id:
        raise UserError(f"{where}: is of another query ({shown(found)}) than this package: of another run or an older"
                        " cycle; import it there")  # fmt: skip
    bare = data.get(_WITHOUT_PRE, [])
    if not isinstance(bare, list) or not all(type(rank) is int for rank in bare):
        raise UserError(f"{where}: {_WITHOUT_PRE} is {shown(bare)}, not what was exported; put a copy of it back")
    return frozenset(bare)


def _most(one: AskedImage) -> int:
    """Bytes of a mask of an image: uncompressed with 16 bits and an alpha channel it has fewer."""
    return 8 * math.prod(one.size) + 2**16


def _labels(package: Package, one: AskedImage, members: Members, name: str) -> tuple[UInt8, np.ndarray]:
    where, data = members.where(name), members.read(name, _most(one))
    with opened(where, data) as image:
        check_mask(where, image)
        if other := other_size(one, image.width, image.height):
            raise UserError(f"{where}: {other}")
        by_colour = image.mode == "RGB"
        if image.mode == "P":
            _check_palette(package, where, image)
    values, table = _values(package), _table(package)
    if by_colour:
        mask_HW = read_mask(where, list(table), data=data)
        mask_HW = np.array(list(table.values()), np.uint8)[mask_HW]
        blank = BLANK if _has_blank(package) else IGNORE
        black_HW = mask_HW == blank
    else:
        mask_HW = map_ids(read_mask(where, data=data), values, where)
        black_HW = mask_HW == BLANK if _has_blank(package) else np.zeros(mask_HW.shape, bool)
    mask_HW[black_HW] = IGNORE
    return mask_HW, ~black_HW


def _check_palette(package: Package, where: Path, image: ImageFile) -> None:
    """UserError where an editor has renumbered the colours: ids and colours would say different classes."""
    own: list[int] = image.getpalette("RGB") or []
    of: dict[tuple[int, ...], int] = {colour: label for label, colour in colours(package).items()}
    used = np.unique(np.array(image)).tolist()
    meant = [of.get((*own[3 * index : 3 * index + 3],)) for index in used]
    wrong = [(index, label) for index, label in zip(used, meant, strict=True) if label not in (None, index)]
    if wrong and all(label is not None or index == BLANK for index, label in zip(used, meant, strict=True)):
        name = {label: name for name, label in label_ids(package).items()}[wrong[0][1]]
        raise UserError(f"{where}: its index {wrong[0][0]} has the colour of {shown(name)}, which is {wrong[0][1]}: an"
                        " editor has renumbered the palette; save it as RGB")  # fmt: skip


def _values(package: Package) -> Mapping[int, int]:
    """What a grey or palette mask may hold: a class, BLANK, and IGNORE for "not sure"."""
    known = [*range(len(package.classes)), IGNORE, *([BLANK] if _has_blank(package) else [])]
    return {value: value for value in known}


def _table(package: Package) -> Mapping[Colour, int]:
    """Colour -> value of an RGB mask; black is blank where no class has it."""
    of = {colour: label for label, colour in colours(package).items()}
    if len(of) <= len(package.classes):
        twice = next(c for c in package.palette if package.palette.count(c) > 1)
        raise UserError(f"two classes have the colour {twice}: an RGB mask can not tell them apart; write class ids")
    return {_BLACK: BLANK, **of} if _has_blank(package) else of


_README = """{count} images to label with any editor

For each image of images/ that you answer, put a mask of the same name and size into masks/: images/a.png, masks/a.png.
A mask is a PNG without alpha: grey or palette with the values of classes.json, or RGB with its colours{note}.
pre/, where there is one, holds what the model takes the images for, as such masks: copy them to masks/ and correct
them.
frames/ shows the images with frames around what is asked; there is no such folder where whole images are asked.
An image without a mask is not answered.  In the end

    s4al annotate import RUN . --as NAME

in this folder, where RUN is the folder that this was exported from, and NAME is yours.
"""
