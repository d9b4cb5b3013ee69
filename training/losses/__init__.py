"""Functions of tensors: logits and labels in, one number with its gradient out."""
