"""The recipes by name: functions that return a whole RunConfig, with what to expect in their docstrings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.recipes import camvid, cityscapes, dinov2, rivals as systems, rivals_cpu as systems_cpu
from benchmarks.recipes.toy import custom_s4al_plus, toy_s4al_plus, toy_splits
from orchestrator.recipe.config import RunConfig, changed, load_yaml, nearest, override
from querying.base.errors import UserError

QUICK_EPOCHS, QUICK_STEPS = 2, 20
RECIPES: dict[str, Callable[[], RunConfig]] = {
    recipe.__name__: recipe
    for recipe in (
        toy_s4al_plus,
        toy_splits,
        custom_s4al_plus,
        camvid.camvid_cpu,
        camvid.camvid_cpu_supervised,
        camvid.camvid_cpu_supervised_long,
        camvid.camvid_cpu_full,
        camvid.camvid_cpu_self_training,
        camvid.camvid_cpu_s4al,
        camvid.camvid_splits,
        camvid.camvid_s4al_plus,
        camvid.camvid_s4al_plus_150,
        camvid.camvid_supervised,
        camvid.camvid_reco,
        camvid.camvid_self_training_2_2,
        camvid.camvid_self_training,
        camvid.camvid_full,
        camvid.camvid_resnet50_s4al_plus,
        camvid.camvid_resnet50_full,
        camvid.camvid_s4al,
        cityscapes.cityscapes_s4al_plus,
        cityscapes.cityscapes_s4al_plus_200,
        cityscapes.cityscapes_supervised,
        cityscapes.cityscapes_reco,
        cityscapes.cityscapes_self_training_2_2,
        cityscapes.cityscapes_self_training,
        cityscapes.cityscapes_s4al_plus_1,
        cityscapes.cityscapes_s4al_plus_2,
        cityscapes.cityscapes_s4al_plus_3,
        cityscapes.cityscapes_full,
        cityscapes.cityscapes_resnet50_s4al_plus,
        cityscapes.cityscapes_resnet50_full,
        cityscapes.cityscapes_s4al,
        cityscapes.cityscapes_ssl_resnet50,
        cityscapes.cityscapes_ssl_resnet101,
        *dinov2.RECIPES,
        *systems.SYSTEMS,
        *systems_cpu.SYSTEMS,
    )
}


def find(name: str) -> RunConfig:
    """The recipe of that name.  UserError suggests the nearest one."""
    if name not in RECIPES:
        raise UserError(f"unknown recipe {name!r}{nearest(name, list(RECIPES))} (`s4al recipes` lists them)")
    return RECIPES[name]()


def resolve(name_or_file: str, overrides: Sequence[str], *, quick: bool = False) -> RunConfig:
    """A recipe's name or a YAML file, shortened where it is to be `quick`, then with `key=value` overrides applied."""
    path = Path(name_or_file)
    is_file = path.suffix in (".yaml", ".yml")
    config = load_yaml(path) if is_file else find(name_or_file)
    return override(shortened(config) if quick else config, overrides)


def shortened(config: RunConfig) -> RunConfig:
    """The recipe with at most QUICK_EPOCHS epochs of QUICK_STEPS steps and one query, without a reference, under
    another name: to see every stage work on these data.  Its figures mean nothing."""
    epochs, steps = min(config.train.epochs, QUICK_EPOCHS), min(config.train.steps_per_epoch, QUICK_STEPS)
    train = {"epochs": epochs, "steps_per_epoch": steps, "last_epochs": None}
    s4al = config.methods.s4al.model_dump()
    s4al["cold_start"] = min(s4al["cold_start"], epochs - 1)
    return changed(
        config, "--quick: ", name=f"{config.name}.quick", cycles=min(config.cycles, 1), reference=False, stop_at=None,
        train=train, methods={"s4al": s4al}, teacher={"epochs": None, "steps_per_epoch": None},
    )  # fmt: skip
