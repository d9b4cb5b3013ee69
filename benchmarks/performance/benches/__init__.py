"""One file for each benchmark: `main` gives its figures."""
