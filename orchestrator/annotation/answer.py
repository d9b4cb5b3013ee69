"""One annotator's answer for one image, as every reader of a format gives it and the store takes it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from querying.dataset.codecs import UInt8


@dataclass(frozen=True, slots=True)
class Answer:
    image_id: str
    annotator: str
    """Who answered; "" where the format says nothing of it."""
    unique_id: str
    """Stable: the same file again gives the same."""
    seconds: float | None
    """Time that the annotator took for the image; None where it is not known."""
    updated: str
    """ISO time of the last change; "" where it is not known."""
    label_HW: UInt8
    """Class ids of the package, 255 for "not sure"."""
    painted_HW: np.ndarray
    """True where the annotator has said anything, "not sure" included; the rest is blank."""
    ambiguous: int = 0
    """Pixels that were painted by hand in several classes."""
    pre_shown: bool = True
    """False where the annotator is known to have seen no pre-annotation."""


def moment(updated: str) -> datetime:
    """When an answer was last changed, to compare; what is not known comes before everything."""
    try:
        found = datetime.fromisoformat(updated)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
