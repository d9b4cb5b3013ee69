"""The members of a zip archive that nobody has checked, read one at a time and never extracted; folders become one."""

from __future__ import annotations

import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from benchmarks.formats.labels import shown
from querying.base.errors import UserError

MOST_BYTES = 2 * 2**30
MOST_MEMBERS = 65_000
_MOST_RATIO, _HARMLESS = 200, 2**20
"""Bytes in memory for one in the file, and up to how many it does not matter."""
_END, _END_64 = b"PK\5\6", b"PK\6\7"
_LEAVINGS = frozenset((".ds_store", "thumbs.db", "desktop.ini", "__macosx"))
_PLAIN_DATE = (1980, 1, 1, 0, 0, 0)
BROKEN = (zipfile.BadZipFile, zlib.error, NotImplementedError, ValueError, EOFError, LookupError, RuntimeError)


class Members:
    """`names`: of the files in it, sorted, without what systems leave behind (`leavings` of them).

    The whole directory is checked at once: UserError names the archive and the member.  `shown_as` is what it is called
    in messages.
    """

    def __init__(self, path: Path, shown_as: Path | None = None) -> None:
        self.path = shown_as or path
        _check_end(path, self.path)
        try:
            self._zip = zipfile.ZipFile(path)
        except BROKEN as error:
            raise self._broken(error) from None
        found = [info for info in self._zip.infolist() if self._checked(info)]
        self._check_twice(found)
        self._check_overlap(self._zip.infolist())
        self._info = {info.filename: info for info in found if not is_leaving(info.filename)}
        self.leavings = len(found) - len(self._info)
        self.names = sorted(self._info)

    def where(self, name: str) -> Path:
        """What the member is called in a message."""
        return self.path / name

    def size(self, name: str) -> int:
        """Bytes of the member, as the directory has it."""
        return self._info[name].file_size

    def read(self, name: str, most: int) -> bytes:
        """A member's bytes; UserError if there are more than `most`, or not those that were packed."""
        try:
            with self._zip.open(self._info[name]) as file:
                data = file.read(most + 1)
        except (*BROKEN, OSError) as error:
            raise UserError(f"{self.where(name)}: damaged ({error}); make the archive again") from None
        if len(data) > most:
            raise UserError(f"{self.where(name)}: more than {most} bytes, too many for what it should be")
        return data

    def close(self) -> None:
        self._zip.close()

    def _checked(self, info: zipfile.ZipInfo) -> bool:
        """Is it a file?  UserError for a name or a kind that no archive of ours has."""
        name, why = info.filename, ""
        mode = info.external_attr >> 16
        if info.orig_filename != name or not name.isprintable() or len(name) > 1000:
            why = "its name has characters that no file name has"
        elif "\\" in name or name.startswith("/") or re.match(r"[A-Za-z]:", name):
            why = "its name is no path below the archive"
        elif {".", "..", ""} & set(name.removesuffix("/").split("/")):
            why = "its name leads out of the archive"
        elif stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            why = "it is a link, or another thing that is no file"
        elif info.flag_bits & 1:
            why = "it is encrypted"
        elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            why = f"it is packed by method {info.compress_type}"
        elif info.file_size > max(_HARMLESS, _MOST_RATIO * info.compress_size):
            why = f"{info.compress_size} bytes of it become {info.file_size}, as of an archive made to fill memory"
        if why:
            raise UserError(
                f"{self.path}: member {shown(info.orig_filename)}: {why}; make the archive again without it"
            )
        return not info.is_dir()

    def _check_twice(self, found: list[zipfile.ZipInfo]) -> None:
        seen: dict[str, str] = {}
        for info in found:
            twin = seen.get(info.filename.casefold())
            seen[info.filename.casefold()] = info.filename
            if twin is not None:
                names = shown(twin) if twin == info.filename else f"{shown(twin)} and {shown(info.filename)}"
                raise UserError(f"{self.path}: member {names}: is there twice; make the archive again with one of them")

    def _check_overlap(self, found: list[zipfile.ZipInfo]) -> None:
        end, last = 0, ""
        for info in sorted(found, key=lambda one: one.header_offset):
            if info.header_offset < end:
                raise UserError(
                    f"{self.path}: member {shown(info.filename)}: its bytes are also those of {shown(last)}"
                )
            end, last = info.header_offset + 30 + len(info.filename) + info.compress_size, info.filename

    def _broken(self, error: Exception) -> UserError:
        return UserError(f"{self.path}: truncated, or no zip archive ({error}); make or download it again")


def is_leaving(name: str) -> bool:
    """Does a system make such files without being asked?"""
    parts = PurePosixPath(name).parts
    return any(part.lower() in _LEAVINGS or part.startswith("._") for part in parts)


def _check_end(path: Path, shown_as: Path) -> None:
    """By the archive's last bytes, before its directory is read: how many members it has."""
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise UserError(
            f"{shown_as}: {size / 2**30:.1f} GB, more than {MOST_BYTES >> 30}; export fewer images at a time"
        )
    with path.open("rb") as file:
        file.seek(max(0, size - 2**16 - 64))
        tail = file.read()
    end = tail.rfind(_END)
    if end < 0 or len(tail) < end + 22:
        raise UserError(f"{shown_as}: truncated, or no zip archive (its end is not there); make or download it again")
    if _END_64 in tail[max(0, end - 20) : end] or int.from_bytes(tail[end + 10 : end + 12], "little") > MOST_MEMBERS:
        raise UserError(f"{shown_as}: more than {MOST_MEMBERS} members; export fewer images at a time")


def write(path: Path, content: Iterator[tuple[str, bytes]]) -> None:
    """An archive of names and bytes, in that order; the same content gives the same file."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in content:
            info = zipfile.ZipInfo(name, _PLAIN_DATE)
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, data)


def files_below(root: Path, folder: str, most: int) -> Iterator[tuple[str, bytes]]:
    """Names (from `root`) and bytes of the files below `root/folder`, which nobody has checked, sorted.

    UserError names a link, a pipe, a file of more than `most` bytes, and what can not be read.
    """
    todo = [root / folder]
    while todo:
        path = todo.pop()
        try:
            kind = path.lstat()
            if stat.S_ISDIR(kind.st_mode):
                todo += sorted(path.iterdir(), reverse=True)
            elif not stat.S_ISREG(kind.st_mode):
                what = f"a link to {path.readlink()}" if stat.S_ISLNK(kind.st_mode) else "no regular file"
                raise UserError(f"{path}: is {what}; put a copy of the file there")
            elif kind.st_size > most:
                raise UserError(f"{path}: {kind.st_size} bytes, too many for what it should be")
            elif not is_leaving(path.name):
                yield path.relative_to(root).as_posix(), _regular(path, most)
        except OSError as error:
            raise UserError(f"{path}: can not be read: {error.strerror}") from None


def _regular(path: Path, most: int) -> bytes:
    """The bytes of a file that was regular a moment ago, and must not have become a link or a pipe."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        return file.read(most + 1)
