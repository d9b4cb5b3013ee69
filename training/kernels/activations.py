"""Which activations oneDNN applies by itself: a table, no form, for `expansion.py` and the folded network."""

from __future__ import annotations

from torch import nn

ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
}
"""What oneDNN can apply while a convolution's output is still in a register, and how it calls it."""
