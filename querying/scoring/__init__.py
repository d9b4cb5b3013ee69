"""A network and a shard of the pool in, files of scores out; knows no budget and chooses nothing."""
