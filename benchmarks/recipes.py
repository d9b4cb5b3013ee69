"""The recipes by name: functions that return a whole RunConfig, with what to expect in their docstrings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import (
    recipes_camvid as camvid,
    recipes_cityscapes as cityscapes,
    recipes_systems as systems,
    recipes_systems_cpu as systems_cpu,
)
from orchestrator.config import DataSettings, InitialSettings, RunConfig, changed, load_yaml, nearest, override
from querying.errors import UserError
from querying.settings import QuerySettings
from training.method_settings import MethodSettings, SelfTrainingSettings
from training.settings import AugmentSettings, ModelSettings, ReCoSettings, TeacherSettings, TrainSettings

QUICK_EPOCHS, QUICK_STEPS = 2, 20


def toy_s4al_plus() -> RunConfig:
    """The demo: generated street scenes, random initial weights, two queries; minutes on 2 cores.

    Expect the mIoU to rise with the labels (docs/results.md); absolute values say nothing about real data.  Starts
    from 5 %, asks for more and augments less than the paper: in so few steps from random weights the labels' worth
    would otherwise drown in noise.  Its student's loss is our sum of two means, not the authors' one mean.
    """
    return RunConfig(
        name="toy_s4al_plus",
        cycles=2,
        reference=True,
        data=DataSettings(dataset="toy"),
        initial=InitialSettings(fraction=0.05),
        model=ModelSettings(
            weights="none", aspp_channels=64, decoder_channels=64, low_level_channels=24, embedding_dim=64, dropout=0.1
        ),
        train=TrainSettings(
            epochs=10, steps_per_epoch=25, batch_size=4, batch_size_unlabelled=4, lr=0.1, head_lr_scale=1
        ),
        teacher=TeacherSettings(batch_size=8),
        reco=ReCoSettings(weight=0.1, queries=32, negatives=64),
        methods=MethodSettings(self_training=SelfTrainingSettings(mean="apart")),
        augment=AugmentSettings(scale_min=0.75, scale_max=1.5, cutout_size=14),
        query=QuerySettings(region_size=16, per_image=8, scales=(1.0,), batch_size=8),
    )


def toy_splits() -> RunConfig:
    """The small recipe for tests: like the demo, without queries and reference."""
    return changed(toy_s4al_plus(), name="toy_splits", cycles=1, reference=False, query=camvid.NO_QUERY)


def custom_s4al_plus() -> RunConfig:
    """Your own data (`s4al ingest folder`): any size and classes; a region is 30x30 pixels (`query.region_size=30`).

    The loss of S4AL+'s authors, our network and padding.
    """
    return changed(
        camvid.camvid_s4al_plus(),
        name="custom_s4al_plus",
        reference=True,
        data={"dataset": None, "size": None},
        model=camvid.OUR_NETWORK,
        train={"normalise": "valid"},
        augment={"padding": "corner"},
    )


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
