"""`answers/import-000/`, ...: each holds what somebody handed in, byte for byte, and the cells cut out of it.

Append-only.  An import of which a file is damaged is made again from its source where that is intact; nothing is ever
deleted.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.annotation.given import REGIONS, Given
from orchestrator.folder.layout import once
from orchestrator.folder.manifest import MANIFEST, problems
from orchestrator.folder.published import read_table
from orchestrator.folder.shapes import Manifest, Sha256, Shape, Text, read_shaped
from querying.base.errors import DamagedError, UserError
from querying.base.files import sha256, write_json, written

SOURCE, REGIONS_FILE, REPORT = "source", "regions.parquet", "report.json"
LARGEST = 2 * 2**30
"""Bytes of what is handed in."""


class _Note(Shape):
    source_sha256: Sha256
    regions_sha256: Sha256
    rule: Text
    blank: Text
    annotator: Text


@dataclass(frozen=True, slots=True)
class Import:
    folder: Path
    rows: tuple[Given, ...]
    rule: str
    blank: str


def import_folders(answers: Path) -> list[Path]:
    """The imports in their order."""
    found = [path for path in answers.glob("import-*") if path.name[7:].isdecimal() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name[7:]))


def next_folder(answers: Path) -> Path:
    there = import_folders(answers)
    return answers / f"import-{1 + int(there[-1].name[7:]) if there else 0:03d}"


def source_digest(source: Path) -> str:
    """SHA-256 of a file, or of a folder's files and their names.  UserError where it is neither, or too large."""
    try:
        return sha256(source) if _regular(source) else _digest_of(_files(source))
    except OSError as error:
        raise UserError(f"{source}: can not be read: {error.strerror}") from None


def write_import(
    folder: Path, source: Path, digest: str, rows: Sequence[Given], options: dict[str, str], report: dict[str, Any]
) -> None:
    """Publish one import, all of it or nothing.  `digest`: of the source when it was read; `options`: rule, blank and
    annotator."""

    def make(out: Path) -> None:
        copied = _copy(source, out / SOURCE)
        if source_digest(source) != digest:
            raise UserError(f"{source}: was altered while it was read: nothing was imported; the same command again")
        with written(out / REGIONS_FILE) as staged:
            table = pa.Table.from_pylist([asdict(row) for row in rows], schema=REGIONS)
            pq.write_table(table, staged, write_page_checksum=True)
        hashes = {"source_sha256": copied, "regions_sha256": sha256(out / REGIONS_FILE)}
        write_json(out / REPORT, {**report, **hashes, **options})

    once(folder, make, inputs={"source": digest}, settings=options)


def read_imports(
    answers: Path, again: Callable[[Path, dict[str, str]], None], say: Callable[[str], None]
) -> list[Import]:
    """Every import.  `again(folder, options)` makes one again whose cells are damaged and whose source is intact;
    DamagedError where that is damaged, too."""
    return [_read(folder, again, say) for folder in import_folders(answers)]


def _read(folder: Path, again: Callable[[Path, dict[str, str]], None], say: Callable[[str], None]) -> Import:
    found = problems(folder)
    if found:
        note = _note(folder)
        if note is None:
            raise DamagedError(f"{found[0]}: {folder} holds answers that nothing vouches for: put a copy of it back")
        if _is(folder / SOURCE, note["source_sha256"]):
            again(folder, {key: note[key] for key in ("rule", "blank", "annotator")})
            say(f"{found[0]}: {folder.name} was made again from its source, what was there is beside it")
        elif _is(folder / REGIONS_FILE, note["regions_sha256"]):
            say(f"{found[0]}: the answers in {folder.name} are intact and count; put a copy of the rest back")
        else:
            raise DamagedError(f"{found[0]}: neither the answers nor what they came from are intact: put a copy back")
    note = _note(folder)
    assert note is not None
    return Import(folder, tuple(rows_of(folder / REGIONS_FILE)), note["rule"], note["blank"])


def rows_of(path: Path) -> Iterator[Given]:
    """The cells of an import.  DamagedError where the file is none of ours."""
    table = read_table(path, REGIONS)
    names = [field.name for field in fields(Given)]
    for batch in table.to_batches(max_chunksize=4096):
        for row in batch.to_pylist():
            yield Given(**{name: row[name] for name in names})


def _note(folder: Path) -> dict[str, str] | None:
    """What vouches for an import: its report, or its manifest where that is damaged."""
    with suppress(DamagedError):
        return read_shaped(folder / REPORT, _Note)
    with suppress(DamagedError, KeyError):
        manifest = read_shaped(folder / MANIFEST, Manifest)
        hashes = {
            f"{name.partition('.')[0]}_sha256": manifest["files"][name]["sha256"] for name in (SOURCE, REGIONS_FILE)
        }
        return {**manifest["settings"], **hashes}
    return None


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def _regular(source: Path) -> bool:
    """Is it a file (True) or a folder?  UserError where it is neither, or too large."""
    found = source.stat()
    if stat.S_ISDIR(found.st_mode):
        return False
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{source}: neither a file nor a folder")
    if found.st_size > LARGEST:
        raise UserError(f"{source}: {found.st_size / 1e9:.1f} GB, more than {LARGEST / 1e9:.1f}: hand it in in parts")
    return True


def _files(folder: Path) -> list[tuple[str, Path]]:
    """The files of a folder by name.  What is no plain file is not part of what is handed in."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
    if sum(path.stat().st_size for path in found) > LARGEST:
        raise UserError(f"{folder}: more than {LARGEST / 1e9:.1f} GB: hand it in in parts")
    return [(path.relative_to(folder).as_posix(), path) for path in found]


def _digest_of(files: Sequence[tuple[str, Path]]) -> str:
    return hashlib.sha256("".join(f"{name}\0{sha256(path)}\n" for name, path in files).encode()).hexdigest()


def _copy(source: Path, to: Path) -> str:
    """Copy a file byte for byte; of a folder make a ZIP, of the same bytes each time.  Returns the copy's SHA-256."""
    with written(to) as staged:
        if _regular(source):
            shutil.copyfile(source, staged)
        else:
            with zipfile.ZipFile(staged, "w") as archive:
                for name, path in _files(source):
                    with path.open("rb") as content, archive.open(zipfile.ZipInfo(name), "w") as member:
                        shutil.copyfileobj(content, member, io.DEFAULT_BUFFER_SIZE * 16)
    return sha256(to)
