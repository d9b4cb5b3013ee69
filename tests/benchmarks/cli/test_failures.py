"""The last line of a failure names the culprit and the remedy."""

import errno
import os
import re
import subprocess
from pathlib import Path

import pytest

from benchmarks.cli.failures import REMEDIES, failure
from orchestrator.process.child import child_command
from querying.base.files import write_json
from querying.base.redaction import cause

ROOT = Path(__file__).parents[3]
PACKAGES = ("orchestrator", "training", "querying", "benchmarks")


@pytest.mark.parametrize("number", [*REMEDIES, errno.ECHRNG])
def test_what_the_system_refuses_names_the_file_and_what_to_do(number):
    line, status = failure(OSError(number, os.strerror(number), "runs/a/x.json"))
    assert status == 5
    assert line.startswith(f"runs/a/x.json: {os.strerror(number)}: ")
    assert line.removeprefix(f"runs/a/x.json: {os.strerror(number)}: ") == REMEDIES.get(
        number, "the same command continues, or shows with --debug where it stopped"
    )


def test_a_write_on_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def full(path, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as of write(2): no name

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(OSError, match="No space") as caught:
        write_json(tmp_path / "x.json", {"a": 1})
    assert failure(caught.value)[0].startswith(f"{tmp_path}/x.json: No space left on device: free some space")


def test_a_defect_says_that_it_is_one_and_what_to_do():
    line, status = failure(KeyError("train_00002"))
    assert (status, "KeyError: 'train_00002'" in line, "--debug" in line) == (5, True, True)


TRAIN = """Training failed due to worker errors:
[Rank 0 Error Snippet]:
Traceback (most recent call last):
  File "/x/ray/train/worker.py", line 1, in run
    {filler}
ModuleNotFoundError: No module named 'training.fit.job'; 'training' is not a package
"""
ACTOR = """The actor died unexpectedly before finishing this task.
\tclass_name: _Host
\tactor_id: 8d6d9dbb3cf6bbb1eb0d4ba001000000
\tpid: 1234
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: The process \
receives a SIGKILL.
"""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (TRAIN.format(filler="x" * 900), "ModuleNotFoundError: No module named 'training.fit.job'; 'training' is not"),
        (ACTOR, "its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: The process receives"),
        ("a " * 400 + "validate_socket_filename failed", "validate_socket_filename failed"),
        ("short", "short"),
    ],
)
def test_of_a_long_message_the_cause_is_shown(text, shown):
    found = cause(text)
    assert shown in found
    assert len(found) <= 300
    assert "\n" not in found


def test_every_module_that_fails_by_the_machine_is_in_the_document():
    said = (ROOT / "docs/reference/exit_status.md").read_text()
    modules = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    raising = [
        str(path.relative_to(ROOT))
        for path in modules
        if re.search(r"InfrastructureError\)?\(|_exit\(InfrastructureError", path.read_text())
        and "class InfrastructureError" not in path.read_text()
    ]
    assert len(raising) > 10
    assert [name for name in raising if f"`{name}`" not in said] == []


def test_a_working_folder_that_was_removed_is_named(tmp_path):
    """Whichever command it is, before anything is read or begun: a user's mistake, with the remedy."""
    gone = tmp_path / "gone"
    for words in (["show", "toy_splits"], ["run", "toy_splits"], ["ingest", "toy", "x"], ["status", "x"]):
        gone.mkdir()
        script = 'cd "$1" && rmdir "$1" && shift && exec "$@"'
        command = ["sh", "-c", script, "sh", str(gone), *child_command(words)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        [line] = done.stderr.splitlines()
        assert (done.returncode, done.stdout) == (2, "")
        said = f"s4al: the folder in which this was started ({gone}) has been removed or can not be reached"
        assert line == f"{said}: `cd` to another"
