"""The names and colours that people paint with, and what a name in an answer stands for."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import reprlib
from typing import Any

import numpy as np

from benchmarks.datasets.files.images import read_mask
from orchestrator.annotation.package import AskedImage, Package
from querying.base.errors import DamagedError, UserError
from querying.base.redaction import one_line
from querying.dataset.codecs import UInt8
from querying.dataset.label_values import IGNORE

Colour = tuple[int, int, int]
NOT_SURE, FRAME = "not sure", "label here"
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxlist, _REPR.maxdict, _REPR.maxstring, _REPR.maxother, _REPR.maxlong = 2, 4, 4, 80, 80, 40
_GREYS = [(grey, grey, grey) for grey in (160, 96, 208, 48, 224, 32)]


def label_ids(package: Package) -> dict[str, int]:
    """Name -> id of everything that can be painted; the last is "not sure", with stars where a class is called so."""
    names = {name: k for k, name in enumerate(package.classes)}
    name = NOT_SURE
    while name in names:
        name += " *"
    return {**names, name: IGNORE}


def colours(package: Package) -> dict[int, Colour]:
    """Id -> colour: those of the package, and for "not sure" one that no class has, nor black."""
    taken = {*package.palette, (0, 0, 0)}
    greens = ((255, green, 255) for green in itertools.count())
    spare = next(colour for colour in itertools.chain(_GREYS, greens) if colour not in taken)
    return {**dict(enumerate(package.palette)), IGNORE: spare}


def label_id(name: Any, known: dict[str, int], where: str) -> int:
    """UserError names the label that is none of the package's, and the nearest that is."""
    if isinstance(name, str) and name in known:
        return known[name]
    folded = {one.lower(): one for one in known}
    text = name if isinstance(name, str) else ""
    near = [folded[text.lower()]] if text.lower() in folded else difflib.get_close_matches(text, known, 1)
    remedy = f"did you mean {near[0]!r}? Rename the label there" if near else f"there are {', '.join(list(known)[:8])}"
    raise UserError(f"{where}: label {shown(name)} is no class of this package; {remedy}")


def shown(value: Any) -> str:
    """What somebody wrote, on one line and not too long."""
    text = one_line(_REPR.repr(value))
    return text if len(text) <= 80 else f"{text[:77]}..."


def mark(package: Package) -> str:
    """What tells the package from those of other cycles and runs, in file names."""
    return hashlib.sha256(package.query_id.encode()).hexdigest()[:8]


def other_size(one: AskedImage, width: Any, height: Any) -> str:
    """What is said where an answer has another size than its image; nothing where it has the same."""
    if (height, width) == one.size and type(height) is type(width) is int:
        return ""
    found, own = f"{shown(width)} x {shown(height)}", f"{one.size[1]} x {one.size[0]}"
    return f"{found} pixels, but the image {shown(one.image_id)} is {own}: use the images that were exported"


def image_bytes(package: Package, one: AskedImage) -> bytes:
    """The image's file; DamagedError if it is not the one that was asked about."""
    path = package.image(one)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DamagedError(f"{path}: does not exist") from None
    if hashlib.sha256(data).hexdigest() != one.sha256:
        raise DamagedError(f"{path}: not what was written: the package has another checksum for it")
    return data


def pre_label(package: Package, one: AskedImage) -> UInt8:
    """Class ids of the pre-annotation (H, W), IGNORE where there is none."""
    path = package.pre(one)
    if path is None:
        return np.full(one.size, IGNORE, np.uint8)
    label_HW = read_mask(path)
    if label_HW.shape != one.size:
        raise DamagedError(f"{path}: {label_HW.shape} pixels, where {one.size} were expected")
    return label_HW
