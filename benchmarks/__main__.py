"""`python -m benchmarks`: the same as `s4al`, for clusters where only the source tree is uploaded."""

from benchmarks.cli import main

main()
