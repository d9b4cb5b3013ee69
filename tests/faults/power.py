"""A power cut at any moment: the disk then holds what was flushed, and perhaps more.

A run is traced: contents at each `fsync` of a file, entries at each `fsync` of a folder.  Before and after each of
these and of each rename, two disks are kept that a file system may leave behind: one with nothing but what was
flushed, and one on which every rename has arrived but no contents that were not flushed.  What was published by then
must be there and intact, and the run must come to the same end.  (In the spirit of CrashMonkey, Mohan et al., OSDI
2018.)
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults.common import Process, contents, ended
from tests.faults.runs import Trials, at_once, child

Disk = dict[str, str | None]
"""Path below the root -> name of the contents; None for a folder."""


class Trace:
    """Replaces `os.fsync` and `os.replace` of this process and keeps every disk that a power cut could leave."""

    def __init__(self, root: Path, store: Path) -> None:
        self.root, self.store = root, store
        self._one = threading.RLock()
        self.flushed: dict[int, str] = {}
        """Inode of a file -> its contents at the last fsync."""
        self.entries: dict[int, dict[str, int]] = {}
        """Inode of a folder -> its entries (name -> inode) at the last fsync."""
        self.kinds: dict[int, bool] = {}
        """Inode -> is it a folder."""
        self.disks: dict[str, Disk] = {}
        self.promised: dict[str, list[str]] = {}
        """Disk -> what was renamed to its place, and that place's folder flushed, before the power was cut."""
        self._renamed: set[Path] = set()
        self._published: list[str] = []
        self._fsync, self._replace = os.fsync, os.replace
        root.mkdir(parents=True)
        self._flush_folder(root)
        os.fsync, os.replace = self._traced(self._fsync, self._flush), self._traced(self._replace, self._rename)

    def stop(self) -> None:
        os.fsync, os.replace = self._fsync, self._replace
        disks = [(disk, self.promised[name]) for name, disk in self.disks.items()]
        (self.store / "disks.json").write_text(json.dumps(disks))

    def _traced(self, call: Callable[..., object], then: Callable[..., object]) -> Callable[..., None]:
        def traced(*arguments: object) -> None:
            with self._one:  # a stage's files are flushed by several threads
                self._cut()
                call(*arguments)
                then(*arguments)
                self._cut()

        return traced

    def _flush(self, descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if not path.is_relative_to(self.root):
            return
        if path.is_dir():
            self._flush_folder(path)
        else:
            self.flushed[path.stat().st_ino] = self._keep(path.read_bytes())

    def _flush_folder(self, path: Path) -> None:
        found = {entry.name: entry.stat(follow_symlinks=False) for entry in os.scandir(path)}
        self.kinds |= {found_stat.st_ino: stat.S_ISDIR(found_stat.st_mode) for found_stat in found.values()}
        self.entries[path.stat().st_ino] = {name: found_stat.st_ino for name, found_stat in found.items()}
        for place in [place for place in self._renamed if place.parent == path]:
            self._renamed.remove(place)
            self._published.append(str(place.relative_to(self.root)))

    def _rename(self, source: Path, place: Path) -> None:
        self._renamed.add(place)

    def _keep(self, content: bytes) -> str:
        name = hashlib.sha256(content).hexdigest()
        if not (self.store / name).exists():
            (self.store / name).write_bytes(content)
        return name

    def _cut(self) -> None:
        for disk in (self._only_flushed(), self._every_rename()):
            name = hashlib.sha256(json.dumps(disk, sort_keys=True).encode()).hexdigest()
            self.disks[name], self.promised[name] = disk, list(self._published)

    def _only_flushed(self) -> Disk:
        disk: Disk = {}

        def walk(inode: int, at: str) -> None:
            for name, found in self.entries.get(inode, {}).items():
                path = f"{at}{name}"
                if self.kinds[found]:
                    disk[path] = None
                    walk(found, f"{path}/")
                else:
                    disk[path] = self.flushed.get(found, self._keep(b""))

        walk(self.root.stat().st_ino, "")
        return disk

    def _every_rename(self) -> Disk:
        disk: Disk = {}
        for path in sorted(self.root.rglob("*")):
            name = str(path.relative_to(self.root))
            disk[name] = None if path.is_dir() else self.flushed.get(path.stat().st_ino, self._keep(b""))
        return disk


def traced_child(data: str, root: str, store: str, plant: str) -> None:
    if plant == "no-fsync":
        import querying.base.files

        flush = querying.base.files.sync
        querying.base.files.sync = lambda path: flush(path) if path.is_dir() else None  # where `written` looks it up
        plant = ""
    trace = Trace(Path(root), Path(store))
    child(data, root, "", "", plant)
    trace.stop()


def power_cuts(trials: Trials, plant: str = "", every: int = 1) -> Iterator[tuple[str, bool]]:
    """Check each distinct disk, and continue from each (of `every` so many)."""
    store, root = trials.scratch / f"store{plant}", trials.scratch / f"traced{plant}"
    store.mkdir()
    process = Process(target=traced_child, args=(str(trials.data), str(root), str(store), plant))
    process.start()
    assert ended(process) == 0
    assert contents(root) == trials.expected
    disks: list[tuple[Disk, list[str]]] = json.loads((store / "disks.json").read_text())

    def trial(number: int) -> tuple[str, bool]:
        disk, promised = disks[number]
        with trials.folder() as folder:
            build(disk, store, folder)
            found = lost(folder, promised)
            if not found and number % every == 0:
                found = trials.ends_the_same(folder)
            return f"disk {number} of {len(disks)} {found}", not found

    yield from at_once(trial, range(len(disks)))


def build(disk: Disk, store: Path, root: Path) -> None:
    root.mkdir()
    for name, content in disk.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir(exist_ok=True)
        else:
            shutil.copyfile(store / content, path)


def lost(root: Path, promised: list[str]) -> list[str]:
    """What is wrong with the labels and the stages that were published."""
    from orchestrator.folder.manifest import problems
    from orchestrator.run.inputs import STAGES
    from querying.labels.ledger import Ledger

    found = []
    for name in promised:
        path = root / name
        if path.suffix == ".parquet" and path.parent.name == "ledger":
            found += Ledger(path.parent).problems(int(path.stem.removeprefix("cycle-")))
        elif path.name in STAGES.values():
            found += problems(path)
    return found
