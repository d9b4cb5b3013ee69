"""Flip one bit of anything that a run reads again: it must be noticed."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults.common import Figure
from tests.faults.runs import Trials


def flips(
    number: int, rng: random.Random, paths: list[Path], check: Callable[[], object]
) -> Iterator[tuple[str, bool]]:
    """Flip one bit of one of the files; `check` must then say or raise something."""
    from querying.base.errors import S4ALError

    for _ in range(number):
        path = rng.choice(paths)
        content = path.read_bytes()
        place, bit = rng.randrange(len(content)), rng.randrange(8)
        altered = bytearray(content)
        altered[place] ^= 1 << bit
        path.write_bytes(altered)
        try:
            noticed = bool(check())
        except S4ALError:
            noticed = True
        yield f"{path} byte {place} bit {bit}", noticed or same_values(path, content)
        path.write_bytes(content)


def same_values(path: Path, content: bytes) -> bool:
    """A flip in JSON that leaves the same values (in white space, or in a float's 17th digit) is no damage."""
    if path.suffix not in (".json", ".jsonl"):
        return False
    try:
        now, before = (list(map(json.loads, _documents(path, text))) for text in (path.read_bytes(), content))
    except ValueError:
        return False
    return now == before


def _documents(path: Path, text: bytes) -> list[bytes]:
    return text.splitlines() if path.suffix == ".jsonl" else [text]


def flip_figures(trials: Trials, number: int, rng: random.Random) -> Iterator[Figure]:
    from orchestrator.folder.layout import RunLayout
    from orchestrator.folder.manifest import problems
    from orchestrator.folder.recipe_file import read_recipe, write_recipe
    from orchestrator.folder.record import read_record
    from querying.base.files import read_json
    from querying.dataset.shards import DataIndex, verify
    from querying.labels.ledger import Ledger
    from tests.small import small_config

    root = trials.scratch / "flips"
    shutil.copytree(trials.clean, root, dirs_exist_ok=True)
    data = Path(shutil.copytree(trials.data, trials.scratch / "flipped-data", dirs_exist_ok=True))
    layout, ledger = RunLayout(root), Ledger(root / "ledger")
    kinds: dict[str, tuple[list[Path], Callable[[], object]]] = {
        name: ([path for path in folder.iterdir() if path.is_file()], lambda folder=folder: problems(folder))
        for name, folder in {
            "checkpoint": layout.checkpoint(1),
            "evaluation": layout.evaluation(0),
            "scores and pseudo-labels": layout.scores(0),
            "query": layout.query(0),
        }.items()
    }
    write_recipe(layout.recipe, small_config(), {})
    kinds["recipe.yaml"] = ([layout.recipe], lambda: read_recipe(layout.recipe) and None)
    kinds["training state"] = _training_state(trials, root)
    kinds["ledger"] = (list((root / "ledger").iterdir()), lambda: ledger.problems(0) + ledger.problems(1))
    kinds["summary.json"] = ([layout.summary], lambda: read_json(layout.summary) and None)
    kinds["metrics.jsonl"] = ([layout.metrics], lambda: len(list(read_record(layout.metrics))) != record_rows)
    kinds["index.json"] = ([data / "index.json"], lambda: DataIndex.load(data) and None)
    shards = [*data.glob("images/*"), *data.glob("truth/*")]
    index = DataIndex.load(data)
    kinds["data shards"] = (shards, lambda: list(verify(index)))
    record_rows = len(list(read_record(layout.metrics)))
    for kind, (paths, check) in kinds.items():
        yield Figure.of(f"one flipped bit: {kind}", flips(number, rng, paths, check))


def _training_state(trials: Trials, root: Path) -> tuple[list[Path], Callable[[], object]]:
    """A state of a training that was killed in its second epoch."""
    from training.network.checkpoint import load_model

    broken = root / "broken"
    trials.run(broken, "step-00000002:renamed=kill")
    [folder] = broken.glob("cycle-000/training/states/step-*")
    return list(folder.iterdir()), lambda: load_model(folder) and None
