"""Words that options of the command line and the code below it share.  Imports nothing of the project."""

from __future__ import annotations

from enum import StrEnum


class HeadroomPart(StrEnum):
    ceiling = "ceiling"
    overfit = "overfit"
    control = "control"


class Checkpoint(StrEnum):
    last = "last"
    best_on_val = "best_on_val"
