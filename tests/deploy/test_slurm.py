"""deploy/slurm.sh, with a stub for Slurm: its own steps beside stubs of Ray and `s4al`, and once with both for real."""

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.small import SMALL
from tests.whole.test_end_to_end import assert_same

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy" / "slurm.sh"
SRUN = f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("srun.py")} "$@"\n'

TWO = [
    "train.workers=2",
    "query.actors=2",
    "train.batch_size=4",
    "train.batch_size_unlabelled=4",
    "teacher.batch_size=4",
]
"""Two workers, of which each needs two images."""


class Job:
    """What Slurm gives a job of two nodes, with these programs in place of its own and others."""

    def __init__(self, folder, number, **programs):
        self.folder = folder
        self.said = folder / "said"
        self.environment = folder / "environment"
        programs = {"srun": SRUN, "scontrol": self.note("scontrol"), **programs}
        (folder / "slurm").mkdir()
        (self.environment / "bin").mkdir(parents=True)
        (self.environment / "bin" / "activate").write_text(
            f"PATH={folder / 'slurm'}:{Path(sys.executable).parent}:$PATH\n"
        )
        for name, text in programs.items():
            program = folder / "slurm" / name
            program.write_text(text)
            program.chmod(0o755)
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "SLURM_"))},
            "S4AL_ENV": str(self.environment), "SLURM_JOB_ID": str(number), "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "1",
        }  # fmt: skip
        self.temporary = [Path(f"/tmp/s4al-{number}-{node}") for node in range(2)]

    def note(self, name):
        """A program that notes how it was called."""
        return f'#!/bin/sh\necho "{name} $*" >> {self.said}\n'

    def start(self, *words):
        with (self.folder / "output").open("w") as output:
            return subprocess.Popen(
                [SCRIPT, *map(str, words)], env=self.env, cwd=ROOT, start_new_session=True,
                stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def end(self, started, limit=60):
        """Its status, and what it has said."""
        return started.wait(timeout=limit), (self.folder / "output").read_text()

    def lines(self):
        return self.said.read_text().splitlines() if self.said.exists() else []

    def wait_for(self, text):
        deadline = time.monotonic() + 60
        while not any(text in line for line in self.lines()):
            assert time.monotonic() < deadline, self.lines()
            time.sleep(0.02)


PYTHON = f"""#!/bin/bash
[ "$1" = -c ] && exec {sys.executable} "$@"
cat > /dev/null
until [ $(grep -c '^ray . token' {{said}}) = "$3" ]; do sleep 0.02; done
"""
"""Makes the token; waits for so many stubs of Ray as it would for nodes."""
WAITS = """#!/bin/bash
echo "s4al $* at $RAY_ADDRESS" >> {said}
trap 'echo saving >> {said}; sleep 0.3; echo saved >> {said}; exit 130' TERM
for step in $(seq 600); do sleep 0.1; done
"""
"""A command that takes a third of a second to save."""


NEVER_HEALTHY = """#!/bin/bash
echo "ray $1" >> {said}
[ "$1" = start ] && exec sleep 600
exit 1
"""


@pytest.fixture
def job(tmp_path):
    """A job whose Ray and `s4al` only note how they are called; `s4al` ends with the status in a file."""
    said = tmp_path / "said"
    ray = f"""#!/bin/bash
[ "$1" = health-check ] && exit 0
echo "ray $SLURM_PROCID $RAY_AUTH_MODE ${{#RAY_AUTH_TOKEN}} $*" >> {said}
trap 'echo "ray $SLURM_PROCID ended" >> {said}; exit 0' TERM
for step in $(seq 600); do sleep 0.1; done
"""
    s4al = f'#!/bin/sh\necho "s4al $* at $RAY_ADDRESS" >> {said}\nexit $(cat {tmp_path}/status)\n'
    return Job(tmp_path, 4711, ray=ray, s4al=s4al, python=PYTHON.format(said=said))


def test_bash_reads_the_script():
    assert subprocess.run(["bash", "-n", SCRIPT], check=False).returncode == 0
    assert SCRIPT.stat().st_mode & stat.S_IXUSR


def test_what_sbatch_is_asked_for_is_what_the_script_counts_on():
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(\S*)$", SCRIPT.read_text(), re.MULTILINE))
    assert asked["ntasks-per-node"] == "1"
    assert int(asked["cpus-per-task"]) > 1
    assert {"requeue", "nodes", "time", "mem", "output"} <= set(asked)
    assert asked["signal"].startswith("B:USR1@")  # to the script alone, not to Ray
    assert int(asked["signal"].split("@")[1]) > 60


@pytest.mark.parametrize("status", [0, 2, 3, 5, 130])
def test_the_status_of_the_command_is_that_of_the_job(job, status):
    (job.folder / "status").write_text(str(status))
    ended, told = job.end(job.start("run", "recipe", "key=a b", "--out", "OUT"))
    assert ended == status, told
    [head, worker] = sorted(line for line in job.lines() if "start" in line)
    address = ":".join(re.search(rf"--{option}=(\S+)", head)[1] for option in ("node-ip-address", "port"))
    assert head.startswith("ray 0 token 64 start --block --num-cpus=1")
    assert "--head" in head
    assert worker.startswith("ray 1 token 64 start --block --num-cpus=1")
    assert f"--address={address}" in worker
    assert f"s4al run recipe key=a b --out OUT at {address}" in job.lines()
    assert sorted(line for line in job.lines() if "ended" in line) == ["ray 0 ended", "ray 1 ended"]
    assert not [line for line in job.lines() if "scontrol" in line]


def test_two_jobs_on_a_node_have_ports_and_folders_of_their_own(job):
    (job.folder / "status").write_text("0")
    ports, folders = set(), set()
    for number in ("4711", "4712"):
        job.env["SLURM_JOB_ID"] = number
        job.end(job.start("run"))
        [head] = [line for line in job.lines() if "--head" in line]
        ports.add(re.search(r"--port=(\d+)", head)[1])
        folders.add(re.search(r"--temp-dir=(\S+)", head)[1])
        job.said.unlink()
    assert len(ports) == len(folders) == 2


@pytest.mark.parametrize(("number", "again"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_a_signal_lets_the_command_save_and_only_the_time_limit_queues_it_again(job, number, again):
    (job.folder / "slurm" / "s4al").write_text(WAITS.format(said=job.said))
    started = job.start("run")
    job.wait_for("s4al run")
    started.send_signal(number)  # to the script alone, as --signal=B: says
    job.wait_for("saving")
    assert started.poll() is None
    ended, told = job.end(started)
    assert ended == 130, told
    lines = job.lines()
    assert lines.index("saved") < lines.index("ray 0 ended")  # Ray is there until it has saved
    assert ("scontrol requeue 4711" in lines) == again
    assert ("queued again" in told) == again


def test_a_command_that_is_done_is_not_queued_again(job):
    (job.folder / "slurm" / "s4al").write_text(WAITS.format(said=job.said).replace("exit 130", "exit 0"))
    started = job.start("run")
    job.wait_for("s4al run")
    started.send_signal(signal.SIGUSR1)
    ended, told = job.end(started)
    assert ended == 0, told
    assert not [line for line in job.lines() if "scontrol" in line]


def test_a_job_that_is_ended_while_ray_starts_leaves_no_process(job):
    (job.folder / "slurm" / "ray").write_text(NEVER_HEALTHY.format(said=job.said))
    (job.folder / "slurm" / "python").write_text(
        PYTHON.split("until")[0] + f"echo waits >> {job.said}\nexec sleep 600\n"
    )
    started = job.start("run")
    job.wait_for("waits")
    job.wait_for("health-check")
    started.send_signal(signal.SIGTERM)
    ended, told = job.end(started)
    assert ended == 130, told
    deadline = time.monotonic() + 20
    while left := [line for line in processes() if f"S4AL_ENV={job.environment}\0" in line]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def processes():
    """The environments of the processes of this machine that may be read."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            yield (process / "environ").read_bytes().decode(errors="replace")
        except OSError:
            continue


def test_no_command_is_a_line_that_says_what_to_type(job):
    ended, told = job.end(job.start())
    assert ended == 2
    assert told.startswith("slurm.sh: what is to be run?")
    assert not job.lines()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1200)
def test_two_nodes_for_real_give_what_two_workers_on_one_machine_give(toy_data, tmp_path):
    """Two raylets on this machine, training with a worker on each, scoring with an actor on each."""
    job = Job(tmp_path, 31000)
    words = ["run", "toy_s4al_plus", *SMALL, *TWO]
    started = job.start(*words, "--data", toy_data.root, "--out", tmp_path / "run", "--tracking", "none")
    try:
        ended, told = job.end(started, 1000)
    finally:
        for folder in job.temporary:
            shutil.rmtree(folder, ignore_errors=True)
    assert ended == 0, told
    assert (tmp_path / "run" / "report" / "report.html").exists()
    alone = [sys.executable, "-m", "benchmarks", *words, "--data", toy_data.root, "--out", tmp_path / "alone"]
    subprocess.run([*map(str, alone), "--tracking", "none"], cwd=ROOT, check=True)
    assert_same(tmp_path / "run", tmp_path / "alone")
