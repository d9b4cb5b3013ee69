"""From a training's description to a published checkpoint; the only room that knows ranks, states and devices."""
