"""How a run lies on the disk and how its parts come to exist exactly once; knows no algorithm."""
