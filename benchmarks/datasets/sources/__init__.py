"""One file for each raw data set: its classes, its splits, and samples that are read one at a time."""
