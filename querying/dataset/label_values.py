"""Values of a label that are no class."""

from __future__ import annotations

IGNORE = 255
"""The label of a pixel that is not known: void, padding, CutOut, or below the confidence threshold."""
