"""How a file comes to exist: under a temporary name, flushed to the disk, then renamed.  Readers see all or nothing."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success fsync it and rename it to `path`, on failure remove it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        yield staged
        sync(staged)
        os.replace(staged, path)
        sync(path.parent)
    finally:
        staged.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with written(path) as staged:
        staged.write_text(text)


def sync(path: Path) -> None:
    """Flush a file or a directory entry to the disk, so that a power cut can not undo a rename."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
