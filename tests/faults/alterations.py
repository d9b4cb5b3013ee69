"""Shards that are altered in place under a run, size and time of modification kept: found, or never read again."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults.common import ended
from tests.faults.runs import Trials, at_once


def alter(path: Path, rng: random.Random) -> None:
    """Another byte in the pixels or labels of a shard; what `stat` says of size and modification stays."""
    before = path.stat()
    place = rng.randrange(before.st_size // 4, 3 * before.st_size // 4)
    with path.open("r+b") as file:
        file.seek(place)
        [byte] = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 255]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def shards_altered_at_random_times(trials: Trials, number: int, seed: int) -> Iterator[tuple[str, bool]]:
    """A run either stops, and ends as an undisturbed one once the shard is put back, or has read nothing altered."""
    with trials.folder() as root:  # the first run of all has waited for the server to load torch
        started = time.monotonic()
        assert trials.run(root) == 0
        whole = time.monotonic() - started

    def trial(turn: int) -> tuple[str, bool]:
        rng = random.Random(f"{seed}/{turn}")
        with trials.folder() as root:
            own = Trials.__new__(Trials)
            own.__dict__ |= trials.__dict__ | {"data": Path(shutil.copytree(trials.data, root.parent / "data"))}
            shard = rng.choice(sorted(own.data.rglob("*.arrow")))
            intact = shard.read_bytes()
            process = own.start(root)
            process.join(rng.uniform(0, whole))
            alter(shard, rng)
            status = ended(process)
            shard.write_bytes(intact)
            # A run that ended well must not have read it; one that stopped must not have kept anything made from it.
            found = own.differences(root, status) if status == 0 else own.ends_the_same(root)
        return f"{turn}: {shard.name}, status {status} {found}", status is not None and not found

    yield from at_once(trial, range(number))
