"""SIGKILL while our writers write: a reader finds the newest version that was acknowledged, or the one after it."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from tests.faults.common import SERVER, Process

LONGEST_S = 0.03
"""A version takes about 2 ms."""


def _write_json(folder: Path, number: int) -> None:
    from querying.base.files import write_json

    write_json(folder / "file.json", {"number": number, "filling": list(range(500))})


def _read_json(folder: Path) -> int:
    from querying.base.files import read_json

    path = folder / "file.json"
    return int(read_json(path)["number"]) if path.exists() else 0


def _write_state(folder: Path, number: int) -> None:
    import torch

    from training.fit.progress import TrainingProgress
    from training.fit.states import TrainingStates

    model = torch.nn.Linear(64, 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.nn.init.constant_(model.weight, number)
    TrainingStates(folder, "").save(model, optimizer, TrainingProgress(step=number))


def _read_state(folder: Path) -> int:
    import torch

    from training.fit.states import TrainingStates

    model = torch.nn.Linear(64, 64)
    step = TrainingStates(folder, "").restore(model, torch.optim.SGD(model.parameters(), lr=0.1)).step
    assert step == 0 or bool((model.weight == step).all())
    return step


WRITERS: dict[str, tuple[Callable[[Path, int], None], Callable[[Path], int]]] = {
    "a JSON file": (_write_json, _read_json),
    "a training state": (_write_state, _read_state),
}


def writer(kind: str, folder: str, after: int, acknowledge: Connection) -> None:
    write, _ = WRITERS[kind]
    while True:
        after += 1
        write(Path(folder), after)
        acknowledge.send(after)


def killed_writers(kind: str, kills: int, scratch: Path, rng: random.Random) -> Iterator[tuple[str, bool]]:
    """Start a writer where the last one was killed; read after each kill."""
    from querying.base.errors import DamagedError

    _, read = WRITERS[kind]
    folder = scratch / f"writer of {kind}"
    folder.mkdir()
    there = 0
    for number in range(kills):
        receiver, sender = SERVER.Pipe(duplex=False)
        process = Process(target=writer, args=(kind, str(folder), there, sender))
        process.start()
        sender.close()
        acknowledged = receiver.recv()  # it writes now
        time.sleep(rng.uniform(0, LONGEST_S))
        process.kill()
        process.join()
        with suppress(EOFError):  # its end of the pipe is closed
            while True:
                acknowledged = receiver.recv()
        try:
            there = read(folder)
            ok = acknowledged <= there <= acknowledged + 1
        except (DamagedError, AssertionError):
            ok = False
        yield f"{kind}, kill {number}: {acknowledged} acknowledged, {there} read", ok
        for leftover in folder.glob(".tmp*"):
            _remove(leftover)


def _remove(path: Path) -> None:
    if path.is_dir():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    else:
        os.unlink(path)
