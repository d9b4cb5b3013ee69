"""How a file comes to exist: under a temporary name, flushed to the disk, then renamed.  Readers see all or nothing.

JSON files carry a seal, so that an altered byte is an error and never another value.
"""

import errno
import hashlib
import itertools
import json
import logging
import math
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from querying.base.errors import DamagedError, UserError
from querying.base.failpoints import failpoint
from querying.base.redaction import one_line

LOG = logging.getLogger(__name__)
SEAL = "seal"
NO_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.EOPNOTSUPP)
"""What `fsync` of a folder gives where there is none; EIO, ENOSPC and others are failures of the disk."""
_said: list[Path] = []
FLUSHERS = 16
"""Files that are flushed at a time."""
NAME_MAX = 255
"""Bytes of a file's name on the usual file systems."""


@contextmanager
def written(path: Path, *, flush: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success fsync it and rename it to `path`, on failure remove it.

    Without `flush` a power cut may leave anything under the name, whatever order it was written in: only for a file
    that is hashed before it is used again, in a folder that `flush_below` flushes before it is published.
    """
    make_folder(path.parent)
    staged = path.with_name(_staged_name(path.name))
    try:
        failpoint(f"{path.name}:opened")
        yield staged
        if flush:
            sync(staged)
        failpoint(f"{path.name}:written")
        os.replace(staged, path)
        failpoint(f"{path.name}:renamed")
        if flush:
            sync(path.parent)
    except OSError as error:
        if error.filename is None:  # as of a write on a full disk
            error.filename = str(path)
        raise
    finally:
        staged.unlink(missing_ok=True)


def _staged_name(name: str) -> str:
    """The temporary name, which a long name's hash keeps within what file systems take."""
    staged = f".tmp-{os.getpid()}-{name}"
    if len(os.fsencode(staged)) <= NAME_MAX:
        return staged
    return f".tmp-{os.getpid()}-{hashlib.sha256(os.fsencode(name)).hexdigest()}{Path(name).suffix[:16]}"


def write_text(path: Path, text: str, *, flush: bool = True) -> None:
    with written(path, flush=flush) as staged:
        staged.write_text(text)


def sealed(data: Mapping[str, Any]) -> str:
    """One line of JSON with a seal over all of it (the first 64 bits of a SHA-256)."""
    return json.dumps({**data, SEAL: _seal(data)}, allow_nan=False)


def unsealed(text: str | bytes, where: object, reads: int | tuple[int, ...] = 1) -> dict[str, Any]:
    """What `sealed` was given.  DamagedError names `where` if the text is not what was written; UserError if it is, but
    by a version whose `schema` (1 where it is not said) is not the one that the caller `reads`."""
    try:
        data = json.loads(text, object_pairs_hook=_no_key_twice, parse_constant=_finite, parse_float=_finite)
        seal = data.pop(SEAL, None)
        expected = _seal(data)
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        why = f": {one_line(str(error))[:200]}" if type(error) is ValueError else ""
        raise DamagedError(f"{where}: not what was written ({type(error).__name__}{why})") from None
    if seal is None:
        raise DamagedError(
            f"{where}: not what was written: it has no seal, so it was altered or another version made it"
        )
    if seal != expected:
        raise DamagedError(f"{where}: not what was written: its seal is broken")
    check_schema(data, where, reads)
    return dict(data)


def check_schema(data: Mapping[str, Any], where: object, reads: int | tuple[int, ...] = 1) -> None:
    """UserError where another version wrote it: that is no damage, and what it made must not be set aside."""
    found, known = data.get("schema", 1), reads if isinstance(reads, tuple) else (reads,)
    if type(found) is not int or found not in known:
        raise UserError(
            f"{where}: schema {one_line(str(found))[:80]} is unknown, this version reads"
            f" {' and '.join(map(str, known))}: use the version that wrote it"
        )


def write_json(path: Path, data: Mapping[str, Any], *, flush: bool = True) -> None:
    write_text(path, json_text(data), flush=flush)


def json_text(data: Mapping[str, Any]) -> str:
    """What `write_json` writes."""
    return json.dumps({**data, SEAL: _seal(data)}, indent=1, allow_nan=False) + "\n"


def read_json(path: Path, reads: int | tuple[int, ...] = 1) -> dict[str, Any]:
    """Contents of a file of `write_json`, as of `unsealed`.  DamagedError names one that is missing, too."""
    try:
        return unsealed(path.read_bytes(), path, reads)
    except FileNotFoundError:
        raise DamagedError(f"{path}: does not exist") from None


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is in it twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is not finite")
    return number


def _seal(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def make_folder(path: Path) -> None:
    """Make a folder and those above it, so that they survive a power cut; nothing where it is there."""
    missing = list(itertools.takewhile(lambda folder: not folder.exists(), (path, *path.parents)))
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync(folder.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder under its name first, so that whoever finds it there finds all of it."""
    gone = folder.with_name(_staged_name(f"removed-{folder.name}"))
    if gone.exists():  # process numbers repeat in containers, and one may have been killed here
        shutil.rmtree(gone)
    os.replace(folder, gone)
    shutil.rmtree(gone)


def user_path(key: str, value: str) -> Path:
    """A path with `~` and `~name` spelled out.  UserError names the `key` where there is no such user."""
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise UserError(f"{key}={value}: {value.partition('/')[0]} is no home folder here") from None


def check_folder(path: Path) -> None:
    """UserError where a command could not write into the folder, which need not be there; makes nothing."""
    try:
        above = (path, *path.parents)
        there = next(folder for folder in above if folder.is_symlink() or folder.exists())
        if not there.is_dir():
            raise UserError(f"{path}: can not be written: {there} is not a folder")
        if not os.access(there, os.W_OK | os.X_OK):
            raise UserError(f"{path}: can not be written: {there} is not ours to write")
    except OSError as error:
        raise UserError(f"{path}: can not be written: {error.strerror}") from None


def sync(path: Path) -> None:
    """Flush a file or a directory entry to the disk, so that a power cut can not undo a rename.

    Some file systems (CIFS, FUSE) know no such thing for a folder: that is said once, and then a power cut may.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        _without_folders(path, error, (errno.EISDIR, errno.EACCES))
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        _without_folders(path, error, NO_SYNC)
    finally:
        os.close(descriptor)


def flush_below(folder: Path) -> None:
    """Flush a folder's files, then all folders, so that it can be published whole by one rename.

    Several at a time, which a disk flushes together: one after the other, each would wait for the disk on its own.  A
    file that fails is removed before the error is raised: the system takes its pages for flushed from then on, and the
    next attempt would believe them.
    """
    files, folders = list[Path](), [folder]
    for path in folder.rglob("*"):
        (folders if path.is_dir() else files).append(path)
    with ThreadPoolExecutor(FLUSHERS) as threads:
        failed = [error for error in threads.map(_flushed, files) if error]
    if failed:
        raise failed[0]
    for path in reversed(folders):
        sync(path)


def _flushed(path: Path) -> OSError | None:
    try:
        sync(path)
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        path.unlink(missing_ok=True)
        return error
    return None


def _without_folders(path: Path, error: OSError, harmless: Collection[int]) -> None:
    """As PostgreSQL's fsync_fname; a file that can not be flushed, and a disk that fails, is an error."""
    if error.errno not in harmless or not path.is_dir():
        raise error
    if not _said:
        _said.append(path)
        LOG.warning(
            "%s: this file system does not flush folders (%s): after a power cut the last files may be missing;"
            " the same command makes them again", path, errno.errorcode.get(error.errno or 0, error),
        )  # fmt: skip


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
