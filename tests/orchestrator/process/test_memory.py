"""Memory that runs out: one line that says what to lower, and everything that was finished stays."""

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.process.out_of_memory import memory_for
from querying.base.errors import InfrastructureError, ran_out_of_memory
from tests.small import SMALL, small_run

ROOT = Path(__file__).parents[3]

# The address space ends 8 MB above what is in use when the stage begins.
LIMITED = """
import resource, sys
from orchestrator.run.stages import Stages
from orchestrator import local_backend, layout  # all that is imported late asks for memory of its own
from benchmarks.cli.app import main

stage, whole = sys.argv.pop(1), None
whole = getattr(Stages, stage)

def starved(self, *arguments):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 20), resource.RLIM_INFINITY))
    return whole(self, *arguments)

setattr(Stages, stage, starved)
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "key"), [("train", "teacher.batch_size"), ("score", "query.batch_size")])
def test_a_stage_that_runs_out_of_memory_names_what_to_lower(toy_data, tmp_path, stage, key):
    overrides = [*SMALL, "train.epochs=1", "teacher.batch_size=24", "query.batch_size=24", "model.aspp_channels=64"]
    command = [sys.executable, "-c", LIMITED, stage, "run", "toy_s4al_plus", *overrides, "--backend", "local"]
    command += ["--data", str(toy_data.root), "--out", str(tmp_path / "run"), "--tracking", "none"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 5, done.stderr
    assert f"out of memory; the same command with a lower {key} and --allow-drift continues" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert (tmp_path / "run/ledger/cycle-000.parquet").exists()
    assert (tmp_path / "run/cycle-000/checkpoint/model.safetensors").exists() == (stage == "score")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("Task was killed due to the node running low on memory."),
    ],
    ids=str,
)
def test_every_way_of_saying_it_is_understood_through_what_was_raised_from_it(error):
    later = InfrastructureError("4 scorer actors died")
    later.__context__ = error
    assert ran_out_of_memory(error)
    assert ran_out_of_memory(later)
    assert not ran_out_of_memory(RuntimeError("shapes differ"))
    expected = r"scoring: out of memory; .* a lower query\.batch_size and"
    with pytest.raises(InfrastructureError, match=expected), memory_for("scoring", ["query.batch_size"]):
        raise later


def test_other_errors_stay_what_they_are():
    with pytest.raises(KeyError), memory_for("scoring", ["query.batch_size"]):
        raise KeyError("x")


def test_states_of_a_training_that_ran_out_of_memory_are_continued_from(toy_data, tmp_path, monkeypatch):
    from training.fit.heartbeat import Heartbeat

    def full(self, progress, loss):
        steps.append(progress.step)
        if progress.step == 5 and len(steps) == 5:
            raise MemoryError

    steps = []
    monkeypatch.setattr(Heartbeat, "step", full)
    with pytest.raises(InfrastructureError, match=r"main cycle 0, training: out of memory; .* teacher\.batch_size"):
        small_run(toy_data.root, tmp_path, "cycles=0")
    small_run(toy_data.root, tmp_path, "cycles=0")
    assert steps == [1, 2, 3, 4, 5, 5, 6]
