"""Arrow follows an offset out of the file.  Whoever forges a shard and its hash gets an error, and no crash."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("cases", "seed"), [(150, 1), pytest.param(5000, 2, marks=pytest.mark.slow)])
def test_forged_shards_with_right_hashes_do_not_crash_the_process(tmp_path, cases, seed):
    command = [sys.executable, "-m", "tests.inputs.forge", tmp_path, str(cases), str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-500:]
    outcomes = json.loads(done.stdout)
    print(outcomes)
    assert set(outcomes) <= {"read", "refused"}
    assert sum(outcomes.values()) == cases
    assert outcomes["refused"] > cases / 4
