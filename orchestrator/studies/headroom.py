"""The trainings that `s4al headroom` makes of a recipe.  Imports nothing heavy."""

from __future__ import annotations

from orchestrator.recipe.config import RunConfig, changed

SUPERVISED, TRUTH = "supervised", "pool-truth"
EPOCHS = 20
"""Steps of the rate's schedule in which a few images are fitted."""
NOTHING = {"unit": "cell", "select": "per_image", "acquisition": "entropy", "per_image": 0, "images": 0}
"""A query that asks nothing, whatever the recipe's asks."""


def few_images(config: RunConfig, images: int, steps: int) -> RunConfig:
    """The recipe's network and rates on a few whole images, cross entropy alone, nothing that keeps it from fitting."""
    size = {"batch_size": images, "batch_size_unlabelled": 0}
    return changed(
        config,
        name="headroom_overfit",
        cycles=0, budget=None, stop_at=None, reference=False,
        initial={"images": images, "list": None, "cover": False},
        model={"dropout": 0.0, "drop_path": 0.0},
        train={
            **size, "method": "supervised", "pool_labels": "pseudo", "epochs": EPOCHS, "last_epochs": None,
            "steps_per_epoch": max(1, steps // EPOCHS), "weight_decay": 0.0, "ohem": None, "workers": 1,
            "validate_epochs": 0, "crop": None,
        },
        teacher={"epochs": None, "steps_per_epoch": None, "batch_size": None},
        reco={"weight": 0.0},
        augment={"scale_min": 1.0, "scale_max": 1.0, "flip": 0.0},
        evaluate={"best_on_val": False},
        query=NOTHING | {"region_size": max(config.query.region_size, 8)},
    )  # fmt: skip


def control(config: RunConfig, name: str, seed: int) -> RunConfig:
    """Self-training without a query, with the pool's true labels; or supervised training for as many steps."""
    base = changed(
        config,
        name=f"headroom_{name}",
        seed=seed, cycles=1, budget=None, stop_at=None, reference=False,
        train={"method": "self_training", "pool_labels": "truth"},
        query=NOTHING | {"region_size": max(config.query.region_size, 8)},
    )  # fmt: skip
    if name == TRUTH:
        return base
    student = base.train_at(1, last=True)
    return changed(
        base,
        cycles=0,
        train={"method": "supervised", "pool_labels": "pseudo"},
        teacher={"epochs": student.epochs, "steps_per_epoch": student.steps_per_epoch},
    )
