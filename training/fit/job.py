"""What a training is made from: the description that travels to every worker."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from querying.base.storage.place import Place
from training.settings.methods import MethodSettings
from training.settings.training import AugmentSettings, EvaluateSettings, ModelSettings, ReCoSettings, TrainSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainJob:
    """Everything that decides the result; paths only, so that it travels to any worker."""

    data: Place
    ledger: Path
    cycle: int
    pseudo: tuple[Path, ...]
    """Folders of scores: the previous cycle's, and that of cycle 0 where its reliable images keep their labels."""
    backbone: Path | None
    """Local weight file; None starts from random weights."""
    region_size: int
    seed: int
    model: ModelSettings
    train: TrainSettings
    reco: ReCoSettings
    augment: AugmentSettings
    methods: MethodSettings
    work: Path
    """States to continue from and progress; may vanish once `out` is published."""
    evaluate: EvaluateSettings
    evaluate_batch: int
    """Images at a time, on val during training."""
    made_from: str
    """A key of labels, pseudo-labels and first weights: states of other ones are not continued from."""
    settings: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """The recipe's keys that decide the result: states of other ones are not continued from either."""
    data_sha256: str | None = None
    """Of the index: a data set that is ingested again under a run is another one.  None takes what there is."""
    backbone_sha256: str | None = None
    """Of the weight file, likewise."""
    previous: Path | None = None
    """Checkpoint that the network begins with; None begins with `backbone` and fresh heads."""
    modules: Path = field(default_factory=Path.cwd)
    """Where the user's own code may lie, besides PYTHONPATH: where the job was made, not where a worker is."""
    out: Path
    """Receives `model.safetensors` and `meta.json`; early networks in `step-<number>/`, the best in `best_on_val/`."""


def device_name(use_gpu: bool) -> str:
    """What computes, as far as it decides the last bits: `cuda`, or `cpu` and its instructions."""
    return "cuda" if use_gpu else f"cpu {torch.backends.cpu.get_cpu_capability()}"


def stop_file(work: Path) -> Path:
    """Where it exists, the workers finish their step, save the state and stop; the driver removes it at the start."""
    return work / "stop"
