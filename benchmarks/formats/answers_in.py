"""`s4al annotate import`: which format a file has, by its content, and its answers."""

from __future__ import annotations

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.formats import cvat, folder, labelstudio_in
from benchmarks.formats.dropped import Dropped
from benchmarks.formats.members import Members
from orchestrator.annotation.answer import Answer
from orchestrator.annotation.package import Package
from querying.base.errors import UserError

_OTHERS = {
    b"<": "XML; export from CVAT as 'Segmentation mask 1.1', from Label Studio as JSON",
    b"\x1f\x8b": "packed by gzip; unpack it first", b"BZ": "packed by bzip2; unpack it first",
    b"\x89PNG": "an image; give the folder above masks/", b"Rar!": "a RAR archive; pack it as zip",
    b"7z": "a 7-Zip archive; pack it as zip",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Answers:
    """`source`: the file that holds all of the answers; `dropped` is complete when `found` is used up."""

    kind: str
    source: Path
    found: Iterator[Answer]
    dropped: Dropped


@contextmanager
def read_answers(package: Package, path: Path, *, blank: str = "ask") -> Iterator[Answers]:
    """The answers in a file or folder that nobody has checked.

    UserError names file, task or member, key and remedy, often only while the answers are read.  A folder's masks are
    packed into a `source` that is gone afterwards.
    """
    dropped: Dropped = Counter()
    try:
        if path.is_dir():
            with tempfile.TemporaryDirectory(prefix="s4al-") as scratch:
                yield _of_folder(package, path, Path(scratch) / "source.zip", dropped)
            return
        if not path.is_file():
            raise UserError(f"{path}: {'is no regular file' if path.exists() else 'does not exist'}")
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        if error.filename is None or Path(error.filename) != path:
            raise
        raise UserError(f"{path}: can not be read: {error.strerror}") from None
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        yield _of_zip(package, Members(path), path, blank, dropped)
        return
    if other := next((what for magic, what in _OTHERS.items() if head.lstrip().startswith(magic)), ""):
        raise UserError(f"{path}: {other}")
    yield Answers("labelstudio", path, labelstudio_in.read(package, path, dropped), dropped)


def _of_folder(package: Package, path: Path, packed: Path, dropped: Dropped) -> Answers:
    if not (path / folder.MASKS).is_dir():
        hint = "; pack it as zip" if (path / cvat.LABELMAP).is_file() else ""
        raise UserError(f"{path}: has no folder {folder.MASKS}, where masks would be{hint}")
    folder.pack(path, package, packed)
    found = folder.read(package, Members(packed, shown_as=path), dropped)
    return Answers("folder", packed, found, dropped)


def _of_zip(package: Package, members: Members, path: Path, blank: str, dropped: Dropped) -> Answers:
    if cvat.LABELMAP in members.names:
        return Answers("cvat", path, cvat.read(package, members, dropped, blank), dropped)
    if any(name.startswith(f"{folder.MASKS}/") for name in members.names):
        return Answers("folder", path, folder.read(package, members, dropped), dropped)
    tops = ", ".join(sorted({name.partition("/")[0] for name in members.names})[:5]) or "nothing"
    raise UserError(
        f"{path}: holds neither {cvat.LABELMAP} (CVAT's 'Segmentation mask 1.1') nor {folder.MASKS}/, but {tops};"
        " pack what lies inside the folder, not the folder"
    )


def reread(package: Package, source: Path, options: Mapping[str, str]) -> Iterator[Answer]:
    """The answers in the source of an earlier import, which was made with these `options`."""
    with read_answers(package, source, blank=options["blank"]) as answers:
        yield from answers.found
