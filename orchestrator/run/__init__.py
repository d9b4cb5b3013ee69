"""The algorithm: how a run begins, what each stage reads and writes, and what its folder says of it."""
