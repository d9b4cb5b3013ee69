"""The experiment: runs, many runs, where they run and where they are tracked."""
