"""What a sweep remembers, in files of its own: what it is, every sample, and how each trial ended.

OUT/sweep.json          what was asked for; the same command with other settings is refused
OUT/trials/0003.json    sample 3: values, state, the curve on val, the figures of its end
OUT/trials/0003/        its run: `s4al run OUT/trials/0003/recipe.yaml` makes it again
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.folder.shapes import SweepSettings, TrialNote, read_shaped
from orchestrator.recipe.config import RunConfig, build
from orchestrator.run.outcome import curve, outcome
from orchestrator.studies.samplers import Sampler
from orchestrator.studies.space import Values, with_values
from orchestrator.tracking.store import Group
from querying.base.errors import DamagedError, UserError
from querying.base.files import make_folder, write_json

DRAWN, FINISHED, PRUNED, FAILED = "drawn", "finished", "pruned", "failed"
GROWS = "samples"
SOURCE = "s4al sweep"


@dataclass
class Sample:
    number: int
    values: Values
    state: str = DRAWN
    rows: list[dict[str, float]] = field(default_factory=list)
    """`step` and `miou` on val, as far as it came."""
    outcome: dict[str, float] = field(default_factory=dict)
    """Numbers of a finished trial: those of its last cycle, and `seconds`."""
    error: str = ""

    def objective(self, name: str) -> float | None:
        """The objective at the trial's end; of one that was stopped early, its last mIoU on val."""
        if self.state == FINISHED:
            return self.outcome.get(name)
        return self.rows[-1]["miou"] if self.state == PRUNED and self.rows and name == "miou" else None


class SweepRecord:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.samples: list[Sample] = []
        for path in sorted((root / "trials").glob("[0-9][0-9][0-9][0-9].json")):
            found = read_shaped(path, TrialNote)
            if found["number"] != int(path.stem):
                raise DamagedError(f"{path}: is of trial {found['number']}")
            self.samples.append(Sample(**{name: found[name] for name in Sample.__dataclass_fields__}))
        numbers = [sample.number for sample in self.samples]
        if numbers != list(range(len(numbers))):
            raise DamagedError(
                f"{root / 'trials'}: sample {next(i for i, n in enumerate(numbers) if i != n)} is missing"
            )

    @property
    def path(self) -> Path:
        return self.root / "sweep.json"

    def folder(self, number: int) -> Path:
        return self.root / "trials" / f"{number:04d}"

    def settings(self) -> dict[str, Any]:
        """What was asked for; DamagedError where it is not what was written."""
        return read_shaped(self.path, SweepSettings)

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Write down what is asked for, or check that it is what was.  More samples than before are welcome."""
        if self.path.exists():
            there = self.settings()
            for name, value in settings.items():
                if name != GROWS and there.get(name) != value:
                    raise UserError(f"{self.root}: holds another sweep: its {name} differs")
        elif self.root.is_dir() and any(path.name != "run.lock" for path in self.root.iterdir()):
            raise UserError(f"{self.root}: is not empty and not a sweep")
        make_folder(self.root / "trials")
        write_json(self.path, dict(settings))

    def draw(self, sampler: Sampler) -> Sample:
        """The next sample, written down before anything is done with it."""
        number = len(self.samples)
        sample = Sample(number, sampler.draw(number, [one.values for one in self.samples]))
        self.samples.append(sample)
        self.keep(sample)
        return sample

    def keep(self, sample: Sample) -> None:
        write_json(self.folder(sample.number).with_suffix(".json"), sample.__dict__)

    def settle(self) -> None:
        """Trials that finished while nobody was looking, the driver being killed, are finished; those that failed are
        tried again."""
        for sample in self.samples:
            if sample.state in (FINISHED, PRUNED):
                continue
            folder = self.folder(sample.number)
            if (found := outcome(folder)) is not None:
                sample.rows = curve(folder, config_of(self.settings()["recipe"], sample))
                sample.state, sample.outcome, sample.error = FINISHED, found, ""
                self.keep(sample)
            elif sample.state == FAILED:
                sample.state, sample.error = DRAWN, ""
                self.keep(sample)


def shown_values(values: Values) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())


def config_of(base: Mapping[str, Any], sample: Sample) -> RunConfig:
    """The recipe of a trial: an ordinary one."""
    config = with_values(build(base), sample.values)
    return config.model_copy(update={"name": f"{config.name}.trial-{sample.number:04d}"})


def group_of(root: Path, settings: Mapping[str, Any], number: int) -> Group:
    """Where a trial stands in MLflow: below the sweep."""
    return Group(root, settings["recipe"]["name"], {"s4al.trial": str(number)}, f"trial {number:04d}", SOURCE)


def best(samples: Sequence[Sample], objective: str, mode: str) -> Sample | None:
    """The finished trial with the best objective, the first of equals; None without a finished one."""
    done = [(one.outcome[objective], one) for one in samples if one.state == FINISHED and objective in one.outcome]
    if not done:
        return None
    sign = 1 if mode == "max" else -1
    return max(done, key=lambda pair: sign * pair[0])[1]
