"""Functions that return a RunConfig; each docstring says what to expect."""
