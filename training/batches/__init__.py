"""From (seed, cycle, step, rank) to a batch; knows no network and keeps no state."""
