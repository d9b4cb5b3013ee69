"""Settings of the systems of active learning that train in a way of their own: S4AL, EquAL and DEAL.

Imports nothing heavy (see querying/settings.py).
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from querying.settings import Settings

Share = Annotated[float, Field(ge=0, le=1)]


class S4ALSettings(Settings):
    """Classes are named by their numbers, so those that are pasted have no default: see the recipes `*_s4al`."""

    decay: float = Field(0.99, ge=0, lt=1)
    """Decay of the averaged teacher: how much of it a step keeps."""
    weight: float = Field(1.0, ge=0)
    """Weight of each of the pool's two losses."""
    threshold: Share = 0.97
    """Confidence from which a pixel counts in the share that an image's loss is multiplied by."""
    cold_start: int = Field(10, ge=0)
    """First epochs without the pool."""
    cold_weight: float = Field(1.5, gt=0)
    """Weight of the labelled images' cross entropy in these epochs."""
    replay_from: int = Field(30, ge=0)
    """Epoch (from 0) from which classes are pasted, in cycles after the first query."""
    frequent: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Classes to paste, but fewer than ..."""
    rare: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Classes to paste; without rare ones nothing is pasted."""
    frequent_pasted: int = Field(3, ge=0)
    """How many of `frequent` each image gets."""
    rare_pasted: int = Field(3, ge=1)
    """How many of them each image gets, as far as the other image shows them (CamVid: 3 and 2)."""

    @model_validator(mode="after")
    def _apart(self) -> "S4ALSettings":
        both = [number for number in self.frequent if number in self.rare]
        if both:
            raise ValueError(f"class {both[0]} is both frequent and rare")
        return self


class EquALSettings(Settings):
    weight: float = Field(1.0, ge=0)
    """Weight of the distance of an image's prediction from its mirror image's."""
    supervised: Literal["both", "image"] = "both"
    """Cross entropy on an image and on its mirror image (the authors' code), or on the image alone (ours)."""
    distance: Literal["logits", "probabilities"] = "logits"
    """Two mean squared errors of logits, each with the other view constant (the authors' code); or the squared distance
    of probabilities, a sum over the classes, of which both views learn (ours)."""
    images: Literal["annotated", "all"] = "annotated"
    """Whose views are to agree: those of images of which anything is labelled (the authors' code), or of the whole
    pool, too, weakly augmented (ours)."""


class DEALSettings(Settings):
    weight: float = Field(1.0, ge=0)
    """Weight of the difficulty branch's weighted binary cross entropy."""
    balance: Literal["class", "share"] = "class"
    """`class` (the authors' code): the mean over right pixels and the mean over wrong ones, weighted by 1 / sqrt(number
    + 1) over the sum of both; pixels without label count as right.  `share` (ours): the mean over labelled pixels, a
    right one weighted by the share of wrong ones and a wrong one by the share of right ones."""
    attention: float = Field(0.5, gt=0, le=1)
    """Height and width of the map that attention looks at, as a share of the logits' (the code: 2/3 on CamVid)."""
