"""CVAT's "Segmentation mask 1.1": a package as images, labels and a zip of masks, and the zip that CVAT exports.

The format knows no annotator, no time and no order, and nothing but the names of the images says which package it is
of: so the images' names begin with a mark of the query.  Black is background: what nobody has painted.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
from PIL.PngImagePlugin import PngImageFile
from scipy import ndimage

from benchmarks.datasets.files.image_files import opened, raw_mode
from benchmarks.datasets.files.images import colour_codes
from benchmarks.formats.dropped import EMPTY, OTHER_FILES, Dropped
from benchmarks.formats.labels import (
    Colour,
    colours,
    image_bytes,
    label_id,
    label_ids,
    mark,
    other_size,
    pre_label,
    shown,
)
from benchmarks.formats.members import Members, write as write_zip
from benchmarks.formats.pictures import framed_png, png
from orchestrator.annotation.answer import Answer
from orchestrator.annotation.package import AskedImage, Package
from querying.base.errors import UserError
from querying.dataset.codecs import UInt8
from querying.dataset.label_values import IGNORE

LABELMAP, CLASSES, OBJECTS, LISTS = "labelmap.txt", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"
BACKGROUND, BLACK = "background", (0, 0, 0)
_MOST_TEXT, _MOST_LINES = 2**20, 400
_BLANK = -1
"""The label of background where no class is called so."""
MOST_OBJECTS = 255
_CROSS = ndimage.generate_binary_structure(2, 2)


def check_classes(package: Package) -> None:
    """UserError for names and colours that the format can not tell apart; CVAT itself takes them without a word."""
    seen: dict[Colour, str] = {BLACK: BACKGROUND}
    for name, colour in zip(package.classes, package.palette, strict=True):
        if ":" in name or name.startswith("#") or name != name.strip():
            raise UserError(f"class {shown(name)}: CVAT's label map can not hold ':', '#' in front or spaces around it;"
                            " rename the class, or use --format labelstudio")  # fmt: skip
        if name != BACKGROUND and seen.setdefault(colour, name) != name:
            what = "black, which is CVAT's background" if colour == BLACK else f"of the colour of {shown(seen[colour])}"
            raise UserError(f"class {shown(name)}: is {what}: {','.join(map(str, colour))}; give it another colour,"
                            " or use --format labelstudio")  # fmt: skip


def write(package: Package, images: Sequence[AskedImage], pre: Collection[str], out: Path) -> None:
    """Write README.txt, labels.json, images/, frames/ and, where there is any pre-annotation, annotations.zip."""
    check_classes(package)
    (out / "images").mkdir()
    for one in images:
        name = _name(package, one, one.image_id in pre)
        (out / "images" / name).write_bytes(image_bytes(package, one))
        if any(box[0] >= 0 for box in one.boxes):
            (out / "frames").mkdir(exist_ok=True)
            (out / "frames" / name).write_bytes(framed_png(package, one))
    of = colours(package)
    labels = [
        {"name": name, "color": f"#{bytes(of[label]).hex()}", "attributes": []}
        for name, label in label_ids(package).items()
        if name != BACKGROUND
    ]
    (out / "labels.json").write_text(json.dumps(labels, indent=1) + "\n")
    some = [one for one in images if one.image_id in pre and package.pre(one) is not None]
    if some:
        write_zip(out / "annotations.zip", _archive(package, some))
    note = _WITH_PRE if some else "There is no pre-annotation.\n"
    (out / "README.txt").write_text(_README.format(count=len(images), note=note), encoding="utf-8")


def _name(package: Package, one: AskedImage, with_pre: bool = True) -> str:
    """The name says, too, where a pre-annotation is held back: nothing else comes back from CVAT."""
    bare = "n" if not with_pre and package.pre(one) is not None else ""
    return f"{mark(package)}{bare}-{one.file}"


def _archive(package: Package, images: Sequence[AskedImage]) -> Iterator[tuple[str, bytes]]:
    of = colours(package)
    lines = [
        f"{name}:{','.join(map(str, of[label]))}::" for name, label in label_ids(package).items() if name != BACKGROUND
    ]
    yield LABELMAP, "\n".join(["# label:color_rgb:parts:actions", f"{BACKGROUND}:0,0,0::", *lines, ""]).encode()
    stems = [_name(package, one).removesuffix(".png") for one in images]
    yield f"{LISTS}/default.txt", "".join(f"{stem}\n" for stem in stems).encode()
    table = np.zeros((256, 3), np.uint8)
    for label, name in enumerate(package.classes):
        table[label] = BLACK if name == BACKGROUND else package.palette[label]
    for stem, one in zip(stems, images, strict=True):
        label_HW = pre_label(package, one)
        yield f"{CLASSES}/{stem}.png", png(table[label_HW])
        yield f"{OBJECTS}/{stem}.png", png(_instances(label_HW, package))


def _instances(label_HW: UInt8, package: Package) -> UInt8:
    """A colour for each connected part of a class: CVAT takes what has one colour for one object.

    Its readers know no more than MOST_OBJECTS colours.  Where there are more parts, the smallest of each class share
    one, and CVAT may show only some of them.
    """
    found: list[tuple[int, int, int]] = []  # pixels, class, part
    parts_of: dict[int, npt.NDArray[np.int64]] = {}
    for label, name in enumerate(package.classes):
        if name != BACKGROUND and (label_HW == label).any():
            parts_of[label], _ = ndimage.label(label_HW == label, _CROSS)
            pixels = np.bincount(parts_of[label].ravel())[1:]
            found += [(int(count), label, part) for part, count in enumerate(pixels, 1)]
    own = len(found) if len(found) <= MOST_OBJECTS else max(0, MOST_OBJECTS - len(parts_of))
    large = set(sorted(found, key=lambda one: (-one[0], *one[1:]))[:own])
    number_HW, count = np.zeros(label_HW.shape, np.int64), 0
    for label, parts_HW in parts_of.items():
        table, rest = np.zeros(parts_HW.max() + 1, np.int64), 0
        for one in found:
            if one[1] == label and (one in large or not rest):
                count += 1
                rest = rest if one in large else count
            if one[1] == label:
                table[one[2]] = count if one in large else rest
        number_HW += table[parts_HW]
    return _voc_colours(number_HW)


def _voc_colours(number_HW: npt.NDArray[np.int64]) -> UInt8:
    """Pascal VOC's colour of a number: its bits dealt to red, green and blue in turn, the lowest to the highest bit."""
    out_HWC = np.zeros((*number_HW.shape, 3), np.int64)
    for bit in range(24):
        out_HWC[..., bit % 3] |= ((number_HW >> bit) & 1) << (7 - bit // 3)
    return out_HWC.astype(np.uint8)


def read(package: Package, members: Members, dropped: Dropped, blank: str) -> Iterator[Answer]:
    """An answer for each image that has a mask.  `blank` "background": black is the class of that name, "void": it is
    blank; anything else is a UserError where there is such a class."""
    background = package.classes.index(BACKGROUND) if BACKGROUND in package.classes else _BLANK
    if background >= 0 and blank not in ("background", "void"):
        raise UserError(
            f"{members.path}: this format does not tell the class {BACKGROUND!r} from what nobody has painted;"
            " --blank background takes all of it for the class, --blank void for not labelled"
        )
    of = _labelmap(package, members)
    found = _masks(package, members, _asked_names(package))
    dropped[OTHER_FILES] += members.leavings
    for one, name in found:
        label_HW, painted_HW = _labels(package, one, members, name, of)
        if background >= 0 and blank == "background":
            label_HW[~painted_HW], painted_HW = background, np.ones_like(painted_HW)
        if not painted_HW.any():
            dropped[EMPTY] += 1
            continue
        text = f"cvat:{package.query_id}:{one.image_id}:".encode() + label_HW.tobytes() + painted_HW.tobytes()
        digest, shown_pre = hashlib.sha256(text).hexdigest(), not name.startswith(f"{mark(package)}n-")
        yield Answer(one.image_id, "", digest, None, "", label_HW, painted_HW, 0, shown_pre)


def _asked_names(package: Package) -> dict[str, AskedImage]:
    names = {_name(package, one, pre).removesuffix(".png"): one for one in package.images for pre in (True, False)}
    return {**{one.file.removesuffix(".png"): one for one in package.images}, **names}


def _masks(package: Package, members: Members, of: Mapping[str, AskedImage]) -> list[tuple[AskedImage, str]]:
    """Each image with the name of its mask; UserError for a member that is not asked for, before any is read."""
    found: dict[str, str] = {}
    for name in members.names:
        path = PurePosixPath(name)
        if name == LABELMAP or (str(path.parent) == LISTS and path.suffix == ".txt"):
            continue
        folder = str(path).partition("/")[0]
        if folder not in (CLASSES, OBJECTS) or path.suffix != ".png":
            hint = ": export with 'Save images' off" if folder in ("JPEGImages", "images") else ""
            raise UserError(f"{members.where(name)}: is not asked for{hint or '; make the archive again without it'}")
        stem = str(path.relative_to(folder).with_suffix(""))
        if stem not in of:
            raise UserError(f"{members.where(name)}: {_strange(stem, of)}")
        one = of[stem]
        if folder == CLASSES and found.setdefault(one.image_id, stem) != stem:
            raise UserError(f"{members.where(name)}: the image {shown(one.image_id)} has two masks, the other is"
                            f" {found[one.image_id]}.png; leave one of them")  # fmt: skip
        other = f"{CLASSES if folder == OBJECTS else OBJECTS}/{stem}.png"
        if other not in members.names:
            raise UserError(f"{members.where(other)}: is missing, although {name} is there; export it again as"
                            " 'Segmentation mask 1.1'")  # fmt: skip
    return [(one, found[one.image_id]) for one in package.images if one.image_id in found]


def _strange(stem: str, of: Mapping[str, AskedImage]) -> str:
    marked = re.fullmatch(r"[0-9a-f]{8}n?-(.+)", stem)
    if marked and marked[1] in of:
        return "is of another query than this package: of another run or an older cycle; export that task alone"
    return "is no image of this package; leave it out"


def _labelmap(package: Package, members: Members) -> list[tuple[Colour, int]]:
    """Colour and label of each line; _BLANK is the background's, IGNORE that of "not sure"."""
    where = members.where(LABELMAP)
    try:
        text = members.read(LABELMAP, _MOST_TEXT).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{where}: is not UTF-8; export it again") from None
    lines = text.splitlines()
    if len(lines) > _MOST_LINES:
        raise UserError(f"{where}: {len(lines)} lines, more than {_MOST_LINES}: no label map of {len(package.classes)}"
                        " classes; export it again")  # fmt: skip
    known, rows, seen = label_ids(package), list[tuple[Colour, int]](), dict[Colour, str]()
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        here, fields = f"{where}: line {number}", line.split(":")
        colour = _colour(fields[1]) if len(fields) == 4 else None
        if colour is None:
            raise UserError(f"{here}: {shown(line)} is not name:r,g,b:parts:actions; a name has no colon in it")
        name = fields[0].strip()
        if (name == BACKGROUND) != (colour == BLACK):
            raise UserError(f"{here}: {shown(line)}: black and {BACKGROUND!r} belong together: {BACKGROUND}:0,0,0::;"
                            " give the other class another colour")  # fmt: skip
        label = _BLANK if name == BACKGROUND else label_id(name, known, here)
        if colour in seen or name in seen.values():
            other = seen.get(colour, name)
            raise UserError(f"{here}: {shown(line)} has the colour or the name of {shown(other)}, too; give it its own")
        seen[colour] = name
        rows.append((colour, label))
    if BLACK not in seen:
        raise UserError(f"{where}: has no line {BACKGROUND}:0,0,0::, so that what is not painted has no colour;"
                        " export it again as 'Segmentation mask 1.1'")  # fmt: skip
    return rows


def _colour(text: str) -> Colour | None:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or not all(re.fullmatch(r"\d{1,3}", part, re.ASCII) and int(part) < 256 for part in parts):
        return None
    red, green, blue = map(int, parts)
    return red, green, blue


def _labels(
    package: Package, one: AskedImage, members: Members, stem: str, of: Sequence[tuple[Colour, int]]
) -> tuple[UInt8, npt.NDArray[np.bool_]]:
    """Class ids of one image, and where it is painted."""
    name, others = f"{CLASSES}/{stem}.png", f"{OBJECTS}/{stem}.png"
    code_HW = _codes(one, members, name, [colour for colour, _ in of])
    object_HW = _codes(one, members, others, None) != 0
    label_HW, known_HW = np.full(code_HW.shape, IGNORE, np.uint8), np.zeros(code_HW.shape, bool)
    for (red, green, blue), label in of:
        here_HW = code_HW == (red << 16 | green << 8 | blue)
        known_HW |= here_HW
        label_HW[here_HW] = IGNORE if label == _BLANK else label
    if not known_HW.all():
        raise UserError(f"{members.where(name)}: {_pixel(~known_HW, code_HW)}, which labelmap.txt does not declare;"
                        " export it again")  # fmt: skip
    painted_HW = code_HW != 0
    if (painted_HW & ~object_HW).any():
        raise UserError(
            f"{members.where(name)}: {_pixel(painted_HW & ~object_HW, code_HW)}, but {OBJECTS} has no object there: the"
            " archive was written with a label map that does not begin with background; export it from CVAT itself"
        )
    if BACKGROUND not in package.classes and (object_HW & ~painted_HW).any():
        raise UserError(f"{members.where(name)}: {_pixel(object_HW & ~painted_HW, code_HW)}, but {OBJECTS} has an"
                        " object there; export it again")  # fmt: skip
    return label_HW, painted_HW


def _pixel(where_HW: npt.NDArray[np.bool_], code_HW: npt.NDArray[np.int32]) -> str:
    """How many, and the first of them with its colour."""
    row, column = np.argwhere(where_HW)[0].tolist()
    code = int(code_HW[row, column])
    colour = f"{code >> 16},{code >> 8 & 255},{code & 255}"
    return f"{int(where_HW.sum())} pixels, the first at x {column}, y {row}, have the colour {colour}"


def _codes(one: AskedImage, members: Members, name: str, follows: Sequence[Colour] | None) -> npt.NDArray[np.int32]:
    """Each pixel's colour as 0xRRGGBB.  With `follows`, indices of a palette PNG must be lines of the label map."""
    where, most = members.where(name), 8 * math.prod(one.size) + 2**16
    with opened(where, members.read(name, most)) as image:
        if not isinstance(image, PngImageFile) or image.mode not in ("RGB", "P") or ";16" in raw_mode(image):
            raise UserError(f"{where}: is not an RGB or palette PNG of 8 bits ({image.format} {image.mode});"
                            " export it again as 'Segmentation mask 1.1'")  # fmt: skip
        if other := other_size(one, image.width, image.height):
            raise UserError(f"{where}: {other}")
        if follows is not None and image.mode == "P":
            own = image.getpalette("RGB") or []
            for index in np.unique(np.array(image)).tolist():
                if index >= len(follows) or tuple(own[3 * index : 3 * index + 3]) != follows[index]:
                    raise UserError(f"{where}: its palette's index {index} is not the colour of the label map's line"
                                    f" {index}; write it as RGB")  # fmt: skip
        return colour_codes(np.array(image.convert("RGB")))


_WITH_PRE = """annotations.zip is what the model takes the images for.  In the task: Actions > Upload annotations >
   "Segmentation mask 1.1", with "Convert masks to polygons" OFF.
"""
_README = """{count} images to label with CVAT

1. Create a task.  Labels: the tab Raw, paste labels.json.  Files: everything in images/, with the names as they are.
2. {note}
3. Paint with the brush, "Remove underlying pixels" ON.  frames/ shows the images with frames around what is asked;
   there is no such folder where whole images are asked.  What you leave as it is counts as your answer.  "not sure"
   is an answer, too.
4. Actions > Export annotations > "Segmentation mask 1.1", without images, and

    s4al annotate import RUN FILE.zip --as NAME

where RUN is the folder that this was exported from, and NAME is yours.
"""
