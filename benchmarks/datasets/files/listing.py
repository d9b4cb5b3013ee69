"""Which files below a folder are its images, and which are left out and why.  Nothing is left out without a word."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from querying.base.errors import UserError

PNG, JPEG = (".png",), (".jpg", ".jpeg", ".jpe", ".jfif")
LOSSLESS = (*PNG, ".bmp", ".ppm", ".pgm", ".pnm", ".tif", ".tiff")
"""What a mask may be: formats that keep every label as it was written."""
READ = (*LOSSLESS, *JPEG)
"""What `benchmarks.datasets.files.images` reads.  Each further decoder is one more that a hostile file can reach."""
_NOT_READ = re.compile(
    r"\.(gif|a?png|mpo|webp|hei[cf]|avif|jp2|j2k|jxl|tga|dds|psd|xcf|svg|exr|hdr|ico|pcx|sgi|ras"
    r"|raw|dng|cr[23]|nef|arw|orf|rw2|npy|npz|mat|dcm|nii)"
)
_MADE_BY_SYSTEMS = frozenset(
    ("__macosx", "@eadir", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information")
)

HIDDEN = "hidden, or made by the system"
AGAIN = "a link to a folder that is read anyway"
FORMAT = "an image in a format that is not read"
OTHER = "no image"


@dataclass(slots=True)
class Listing:
    """`images`: files to read, sorted by path.  `left_out`: the others by the reason for it (HIDDEN, AGAIN, FORMAT,
    OTHER), sorted too; a folder counts once for each image in it, or once."""

    images: list[Path] = field(default_factory=list)
    left_out: dict[str, list[Path]] = field(default_factory=dict)

    def notes(self) -> list[str]:
        """A line per reason with the count and the first names."""
        return [f"left out: {named(paths, why=reason)}" for reason, paths in sorted(self.left_out.items())]


def list_images(folder: Path, suffixes: Sequence[str] = READ) -> Listing:
    """Every file below `folder` whose suffix, in any case, is one of `suffixes`; linked folders are followed.

    A folder that is reached twice (through a link, or a link to itself) is read once.  Hidden files and folders and
    what systems leave behind (._x, .ipynb_checkpoints, __MACOSX, Thumbs.db) are left out.  Whether a file can be read
    is not looked at: that is `benchmarks.datasets.files.images`'s business.  UserError names a folder that can not be
    opened.
    """
    found = Listing()
    root = folder.resolve()
    seen = {root}
    for here, subfolders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        kept = []
        for path in (Path(here, name) for name in sorted(subfolders)):
            real = path.resolve()
            if _is_hidden(path):
                inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in READ)
                found.left_out.setdefault(HIDDEN, []).extend(inside or [path])
            elif real in seen or (path.is_symlink() and (real.is_relative_to(root) or root.is_relative_to(real))):
                found.left_out.setdefault(AGAIN, []).append(path)
            else:
                seen.add(real)
                kept.append(path.name)
        subfolders[:] = kept
        for path in (Path(here, name) for name in names):
            reason = _reason(path, suffixes)
            (found.left_out.setdefault(reason, []) if reason else found.images).append(path)
    for paths in (found.images, *found.left_out.values()):
        paths.sort()
    return found


def named(paths: Sequence[Path | str], what: str = "file", why: str = "", first: int = 3) -> str:
    """How many, of what, and the first of them: `12 files (hidden): in/a.png, b.png, c.png, ...`."""
    shown = [str(paths[0]), *(Path(path).name for path in paths[1:first]), *(["..."] if len(paths) > first else [])]
    return f"{len(paths)} {what}{'s' * (len(paths) != 1)}{f' ({why})' if why else ''}: {', '.join(shown)}"


def _reason(path: Path, suffixes: Sequence[str]) -> str:
    suffix = path.suffix.lower()
    if _is_hidden(path):
        return HIDDEN
    if suffix in suffixes:
        return ""
    return FORMAT if _NOT_READ.fullmatch(suffix) or suffix in READ else OTHER


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in _MADE_BY_SYSTEMS


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename}: can not be read: {error.strerror}") from error
