"""The side of the one who sees the run folder: its files in parts, and files that come in parts and appear whole."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path

from querying.base import pulse
from querying.base.errors import InfrastructureError, UserError
from querying.base.failpoints import failpoint
from querying.base.files import flush_below, make_folder, sync
from querying.base.relay.places import Mark, Places, inside

PART = 16 * 2**20
"""Bytes of one message."""
STAGED = ".tmp-"


class Served:
    """Reads and writes the places of a stage, and nothing else.  Several threads may call it.

    Who writes names himself by a `token` of his own: what two of them send of one file does not mix.
    """

    def __init__(self, places: Places, mark: Mark) -> None:
        self.places, self.mark = places, mark
        self.owners: dict[Path, str] = {}
        self.lock = threading.Lock()

    def check(self, node: str) -> None:
        """UserError where this node does not see the run folder either."""
        if not self.mark.seen():
            raise UserError(
                f"{self.places.root}: neither {node} nor the Ray node of this command sees it: start the command on a"
                " machine with a node of the cluster that does"
            )

    def files(self, path: Path, without: Collection[str] = ()) -> dict[Path, int]:
        """Bytes of a file, or of all below a folder but those whose names match a pattern; nothing where there is
        none.  What is just being written does not count."""
        self._check(path, self.places.all)
        found: dict[Path, int] = {}
        for folder, folders, names in [("", [], [str(path)])] if path.is_file() else os.walk(path):
            folders[:] = [name for name in folders if not name.startswith(STAGED)]
            for file in (Path(folder, name) for name in names):
                if not file.name.startswith(STAGED) and not any(fnmatch(file.name, one) for one in without):
                    with suppress(FileNotFoundError):  # replaced in this moment
                        found[file] = file.stat().st_size
        return found

    def part(self, file: Path, begin: int) -> bytes:
        self._check(file, self.places.all)
        with file.open("rb") as opened:
            opened.seek(begin)
            return opened.read(PART)

    def exists(self, path: Path) -> bool:
        self._check(path, self.places.all)
        return path.exists()

    def own(self, folder: Path, token: str) -> None:
        """From now on only this one writes below a folder: one who was lost, and comes back, is refused."""
        self._check(folder, self.places.writes)
        with self.lock:
            self.owners[folder] = token

    def write(self, base: Path, token: str, name: str, begin: int, data: bytes, *, whole: bool) -> None:
        """A part of a file that `publish` with the same arguments will put below `base`."""
        self._check_writer(base / name, token)
        staging = _staging(base, token, whole)
        with _named(base / name, staging):
            make_folder(staging.parent)
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            with (staging / name).open("r+b" if begin else "wb") as file:
                file.seek(begin)
                file.write(data)
        failpoint("relay:part")

    def publish(self, base: Path, token: str, names: Sequence[str], *, whole: bool, flush: bool) -> None:
        """Put what was written below `base`, file by file in this order, or as the `whole` folder in one rename; the
        files of others come before or after them."""
        self._check_writer(base, token)
        staging = _staging(base, token, whole)
        with _named(base, staging):
            if flush:
                flush_below(staging)
            with self.lock:
                self._check_writer(base, token)
                failpoint("relay:written")
                if whole:
                    if base.exists():  # damaged, or made from something else: it would be made anew here, too
                        shutil.rmtree(base)
                    os.replace(staging, base)
                else:
                    for name in names:
                        (base / name).parent.mkdir(parents=True, exist_ok=True)
                        os.replace(staging / name, base / name)
                    shutil.rmtree(staging)
            if flush:
                for folder in {(base / name).parent for name in names} | ({base.parent} if whole else set()):
                    sync(folder)
        failpoint("relay:published")

    def remove(self, folder: Path, token: str) -> None:
        """A folder that is not needed any more."""
        self._check_writer(folder, token)
        with self.lock:
            self._check_writer(folder, token)
            shutil.rmtree(folder, ignore_errors=True)

    def beat(self, path: Path, token: str, number: int, row: bytes) -> None:
        """A sign of life."""
        self._check_writer(path, token)
        pulse.put_beat(path, number, row)

    def _check(self, path: Path, places: tuple[Path, ...]) -> None:
        real = Path(os.path.realpath(path))
        if ".." in path.parts or not (inside(path, places) and inside(real, places)):
            raise InfrastructureError(f"{path}: is none of the files that this stage may reach through the driver")

    def _check_writer(self, path: Path, token: str) -> None:
        self._check(path, self.places.writes)
        if any(owner != token and inside(path, (folder,)) for folder, owner in list(self.owners.items())):
            raise InfrastructureError(f"{path}: another worker has taken over from this one")


def _staging(base: Path, token: str, whole: bool) -> Path:
    return base.with_name(f"{STAGED}{token}-{base.name}") if whole else base / f"{STAGED}{token}"


@contextmanager
def _named(path: Path, staging: Path) -> Iterator[None]:
    """Nothing staged remains of what fails, and an error of the disk names the file that was to be, as one of
    `querying.base.files.written` does."""
    try:
        yield
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        if error.filename is None:
            error.filename = str(path)
        raise
