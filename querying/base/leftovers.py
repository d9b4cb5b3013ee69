"""What a killed process has left behind, beside what it was making.

Whoever makes something holds a lock that dies with the process: process numbers repeat in containers.
"""

from __future__ import annotations

import fcntl
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

LOCK = "in-progress.lock"
_WRITTEN = re.compile(r"\.tmp-\d+-(.+\.(?:png|svg|md|html|csv|json|parquet|onnx))")
"""Files of `querying.base.files.written` that commands leave in folders of the user's choice."""
_SCRATCH = re.compile(r"\.tmp-\w{8}")
"""Folders of `tempfile` with that prefix."""
_DATA = re.compile(r"images|truth|ids|index\.json|\.tmp-.*")
_EXPORT = re.compile(
    r"\d+|README\.txt|label_config\.xml|label-studio-data|labels\.json|annotations\.zip|images|frames|pre|masks"
    r"|classes\.json|query\.json"
)
_PROJECT = re.compile(r"classes\.txt|recipe\.yaml|plan\.json|README\.txt|round-0|\.tmp-.*")
_MIRROR = re.compile(r"place-\d+")
"""What `ingest`, `annotate export` and a mirror make in a folder of their own beside the one that they are to be."""


def remove_beside(target: Path, say: Callable[[str], None]) -> None:
    """Remove what killed processes have left of `folder_beside`, those that live keep theirs; `say` is told the size.

    A folder of the user that is called likewise is not touched.
    """
    for own in sorted(target.parent.glob(f"{glob.escape(target.name)}.tmp-*")):
        with suppress(OSError):  # somebody works in it, or it is not ours to remove
            if _is_ours(own, target.name):
                with (own / LOCK).open("a") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    size = _size(own)
                    shutil.rmtree(own)
                say(f"{own}: removed, {size / 1e6:.1f} MB that were left when a process was killed")


@contextmanager
def folder_beside(target: Path) -> Iterator[Path]:
    """A new, empty folder `target.name` in a locked one `target.name.tmp-*` beside it, which goes in the end."""
    own, lock = _new_folder(target)
    with lock:
        try:
            made = own / target.name
            made.mkdir()  # by us, so with the permissions of any folder
            yield made
        finally:
            shutil.rmtree(own, ignore_errors=True)


def _new_folder(target: Path) -> tuple[Path, IO[str]]:
    while True:
        own = Path(tempfile.mkdtemp(prefix=f"{target.name}.tmp-", dir=target.parent))
        try:
            lock = (own / LOCK).open("a")
        except FileNotFoundError:  # taken for a leftover before it was locked
            continue
        except OSError:
            own.rmdir()
            raise
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # likewise
            lock.close()
            continue
        except OSError:  # no locks on this file system, so nobody removes anything either
            return own, lock
        if own.exists():
            return own, lock
        lock.close()


@contextmanager
def writing_into(folder: Path, say: Callable[[str], None], *, only: str = "", scratch: bool = False) -> Iterator[None]:
    """Hold a folder that several may write into.  Where nobody else does, what killed processes have left is removed
    first, as by `remove_written`.  Nothing is where the folder is not there, or its file system has no such locks."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield
        return
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_written(folder, say, only=only, scratch=scratch)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def remove_written(folder: Path, say: Callable[[str], None], *, only: str = "", scratch: bool = False) -> None:
    """Remove half-written files from a folder, or those of the file `only`, and `scratch` folders; for who knows that
    nobody is writing there."""
    left = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        found = _WRITTEN.fullmatch(path.name)
        if (found and only in ("", found[1]) and path.is_file()) or (scratch and _SCRATCH.fullmatch(path.name)):
            left.append(path)
    size = sum(map(_size, left))
    for path in left:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if left:
        what = f"{len(left)} half-written files, the first {left[0].name}"
        say(f"{folder}: removed {what}, {size / 1e6:.1f} MB that were left when a process was killed")


def _is_ours(own: Path, name: str) -> bool:
    """Made by `folder_beside`, of this or (without a lock) an earlier version."""
    if own.is_symlink() or not own.is_dir() or not re.fullmatch(r"\w{8}", own.name.removeprefix(f"{name}.tmp-")):
        return False
    there = {path.name for path in own.iterdir()}
    inside = {path.name for path in (own / name).iterdir()} if name in there else set()
    if LOCK not in there and (not inside or "index.json" in inside):
        return False  # empty or a complete data set: perhaps somebody's own
    return there <= {LOCK, name} and any(
        all(map(made.fullmatch, inside)) for made in (_DATA, _EXPORT, _PROJECT, _MIRROR)
    )


def _size(path: Path) -> int:
    """Bytes of a file, or of all below a folder."""
    return sum(part.lstat().st_size for part in (path, *path.rglob("*")) if not part.is_dir())
