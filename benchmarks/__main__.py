"""`python -m benchmarks`: the same as `s4al`, for clusters where only the source tree is uploaded.

Also started as a file, with `python -P`, by a process of the project that needs another one.
"""

import sys
from os.path import abspath, dirname

if not sys.flags.safe_path:
    del sys.path[0]  # the folder where it is started: a numpy.py there would be taken for NumPy
sys.path.insert(0, dirname(dirname(abspath(__file__))))
import benchmarks.import_path  # noqa: F401

del sys.path[0]  # nor is what else lies beside the packages anybody's business

from benchmarks.cli.app import main  # noqa: E402

main()
