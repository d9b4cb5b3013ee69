"""From raw files to shards, and whether what came out is fit to learn from."""
