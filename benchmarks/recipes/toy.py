"""Recipes for generated scenes, and for anybody's own data."""

from __future__ import annotations

from benchmarks.recipes import camvid
from orchestrator.recipe.config import DataSettings, InitialSettings, RunConfig, changed
from querying.settings import QuerySettings
from training.settings.methods import MethodSettings, SelfTrainingSettings
from training.settings.training import AugmentSettings, ModelSettings, ReCoSettings, TeacherSettings, TrainSettings


def toy_s4al_plus() -> RunConfig:
    """The demo: generated street scenes, random initial weights, two queries; minutes on 2 cores.

    Expect the mIoU to rise with the labels (docs/results/index.md); absolute values say nothing about real data.
    Starts from 5 %, asks for more and augments less than the paper: in so few steps from random weights the labels'
    worth would otherwise drown in noise.  Its student's loss is our sum of two means, not the authors' one mean.
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
