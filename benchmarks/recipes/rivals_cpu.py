"""The systems of `recipes_systems` under the labels, pixels and steps of `camvid_cpu`: a comparison for 2 cores."""

from __future__ import annotations

from benchmarks.recipes.camvid import NO_RECO, camvid_cpu
from benchmarks.recipes.rivals import ANYWHERE, IMAGES
from orchestrator.recipe.config import RunConfig, changed


def camvid_cpu_random() -> RunConfig:
    """`camvid_cpu` that buys at random: the same labels at the start, pixels and steps, as in the rows below."""
    return changed(camvid_cpu(), name="camvid_cpu_random", reference=False, query={"acquisition": "random"})


def camvid_cpu_entropy() -> RunConfig:
    """`camvid_cpu` without its fully supervised reference."""
    return changed(camvid_cpu(), name="camvid_cpu_entropy", reference=False, query={"acquisition": "entropy"})


def camvid_cpu_margin() -> RunConfig:
    """`camvid_cpu` that buys where the two best classes are close."""
    return changed(camvid_cpu(), name="camvid_cpu_margin", reference=False, query={"acquisition": "margin"})


def camvid_cpu_equal() -> RunConfig:
    """EquAL under the labels, pixels and steps of `camvid_cpu`: the pool's best cells, 4 + 4 images in a step.

    Loss and score have the authors' form.  Its first cycle has the 60 steps an epoch of the last one.
    """
    return changed(
        camvid_cpu(),
        name="camvid_cpu_equal",
        reference=False,
        reco=NO_RECO,
        train={"method": "equal", "batch_size": 4},
        query={**ANYWHERE, "acquisition": "equal"},
    )


def camvid_cpu_deal() -> RunConfig:
    """DEAL under the labels and steps of `camvid_cpu`: the 20 most difficult images, 97 % of its query; 4 in a step.

    Loss and head are of the authors' code, dilation, corners and padding ours, as in the rows beside it.
    """
    return changed(
        camvid_cpu(),
        name="camvid_cpu_deal",
        reference=False,
        reco=NO_RECO,
        model={"class_head": "deal", "head_init": "kaiming"},
        train={"method": "deal", "batch_size": 4},
        query={**IMAGES, "acquisition": "deal_ds", "images": 20},
    )


SYSTEMS = (camvid_cpu_random, camvid_cpu_entropy, camvid_cpu_margin, camvid_cpu_equal, camvid_cpu_deal)
