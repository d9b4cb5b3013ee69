"""The side of the one who does not see the run folder: local copies of what it reads, and what it writes sent back."""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from querying.base.errors import InfrastructureError
from querying.base.files import make_folder
from querying.base.leftovers import folder_beside, remove_beside
from querying.base.relay.places import Places
from querying.base.relay.served import PART, STAGED

NAME = "s4al-mirror"


class Far(Protocol):
    """`Served`, wherever it is."""

    def check(self, node: str) -> None: ...
    def files(self, path: Path, without: Collection[str] = ()) -> dict[Path, int]: ...
    def part(self, file: Path, begin: int) -> bytes: ...
    def exists(self, path: Path) -> bool: ...
    def own(self, folder: Path, token: str) -> None: ...
    def write(self, base: Path, token: str, name: str, begin: int, data: bytes, *, whole: bool) -> None: ...
    def publish(self, base: Path, token: str, names: Sequence[str], *, whole: bool, flush: bool) -> None: ...
    def remove(self, folder: Path, token: str) -> None: ...
    def beat(self, path: Path, token: str, number: int, row: bytes) -> None: ...


_State = tuple[int, int, int]


class Mirror:
    """A worker's own copies, in a temporary folder; all paths but those of `here` are the driver's."""

    def __init__(self, far: Far, places: Places, folder: Path) -> None:
        self.far, self.places = far, places
        self.token = secrets.token_hex(8)
        deepest = sorted(dict.fromkeys(places.all), key=lambda place: -len(place.parts))
        self.rooms = {place: folder / f"place-{n}" / place.name for n, place in enumerate(deepest)}
        self.known: dict[Path, _State] = {}
        """Local files that the driver has."""

    def here(self, path: Path) -> Path:
        """Where a path of the driver is on this node; the same path where it has nothing to do with the run.
        InfrastructureError for one of the run folder that is not mirrored: it must not be looked for here."""
        for place, room in self.rooms.items():
            if path == place or place in path.parents:
                return room / path.relative_to(place)
        if self.places.root in path.parents:
            raise InfrastructureError(
                f"{path}: lies in the run folder, which {socket.gethostname()} does not see: data and code that its"
                " workers read belong elsewhere"
            )
        return path

    def there(self, text: str) -> str:
        """A message with the driver's paths in place of those of this node."""
        for place, room in self.rooms.items():
            text = text.replace(str(room), str(place))
        return text

    def pull(self, path: Path, without: Collection[str] = ()) -> None:
        """Copy a file, or all below a folder but what matches a pattern; nothing where there is none."""
        self.pull_files(self.far.files(path, without))

    def pull_files(self, sizes: dict[Path, int]) -> None:
        for file, size in sizes.items():
            local = self.here(file)
            local.parent.mkdir(parents=True, exist_ok=True)
            with local.open("wb") as into:
                while into.tell() < size:
                    data = self.far.part(file, into.tell())
                    if not data:
                        raise InfrastructureError(
                            f"{file}: was shortened while it was read; the same command continues"
                        )
                    into.write(data)
            self.known[local] = _state(local)

    def push(self, folder: Path, *, flush: bool, only: Collection[str] = ()) -> None:
        """Publish what is new below a folder, all of it or what has one of these names directly in it, in the order in
        which it was written."""
        local = self.here(folder)
        paths = [local / name for name in only] if only else _below(local)
        new = {path: _state(path) for path in paths if path.exists()}
        new = {path: state for path, state in new.items() if self.known.get(path) != state}
        order = sorted(new, key=lambda path: (new[path][2], path))
        for path in order:
            with path.open("rb") as file:
                self._send(folder, str(path.relative_to(local)), file, whole=False)
        if order:
            names = [str(path.relative_to(local)) for path in order]
            self.far.publish(folder, self.token, names, whole=False, flush=flush)
        self.known |= new

    def push_whole(self, folder: Path) -> bool:
        """Publish a folder of files in one rename, flushed; False where it is removed here before all of it is opened,
        since a newer one is there.  `querying.base.files.remove_folder` removes it: as long as it is under its name,
        all of it is there."""
        local = self.here(folder)
        with ExitStack() as opened:
            files: dict[str, BinaryIO] = {}
            try:
                descriptor = os.open(local, os.O_RDONLY | os.O_DIRECTORY)
                opened.callback(os.close, descriptor)
                for name in sorted(os.listdir(descriptor)):
                    number = os.open(name, os.O_RDONLY, dir_fd=descriptor)
                    files[name] = opened.enter_context(open(number, "rb"))
                if not os.path.samestat(os.fstat(descriptor), local.stat()):
                    return False
            except FileNotFoundError:
                return False
            for name, file in files.items():
                self._send(folder, name, file, whole=True)
        self.far.publish(folder, self.token, list(files), whole=True, flush=True)
        return True

    def clear(self, folder: Path) -> None:
        """Remove the copies of what is below a folder: the driver has all of it."""
        for path in _below(self.here(folder)):
            path.unlink()
            self.known.pop(path, None)

    def beat(self, path: Path, number: int, row: bytes) -> None:
        """For `querying.base.pulse.keep_beating`."""
        self.far.beat(path, self.token, number, row)

    def _send(self, base: Path, name: str, file: BinaryIO, *, whole: bool) -> None:
        begin = 0
        while (data := file.read(PART)) or not begin:
            self.far.write(base, self.token, name, begin, data, whole=whole)
            begin += len(data)
            if len(data) < PART:
                break


@contextmanager
def mirror_of(far: Far, places: Places) -> Iterator[Mirror]:
    """A mirror in this node's temporary folder, from which those of killed processes are removed first."""
    target = Path(tempfile.gettempdir()) / NAME
    make_folder(target.parent)
    remove_beside(target, lambda line: None)
    with folder_beside(target) as folder:
        far.check(socket.gethostname())
        mirror = Mirror(far, places, folder)
        for place, room in mirror.rooms.items():
            room.parent.mkdir()
            if place in places.writes:
                room.mkdir()
        yield mirror


def _below(folder: Path) -> list[Path]:
    """Files, but for what is just being written."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return [path for path in found if not any(part.startswith(STAGED) for part in path.relative_to(folder).parts)]


def _state(path: Path) -> _State:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
