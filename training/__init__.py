"""From labels to a checkpoint, and from a checkpoint to logits."""
