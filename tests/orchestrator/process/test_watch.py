"""A process that watches a service ends with it, and only with it."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from orchestrator.process.children import FROZEN, Child, how
from orchestrator.process.service_watch import FROZEN_S
from orchestrator.tracking import uri as tracking_uri
from querying.base.errors import InfrastructureError
from tests.mlflow_files import sqlite_uri

ROOT = Path(__file__).parents[3]
PROGRAM = """
import sys, time
from orchestrator.process.interrupt import requested
import orchestrator.process.service_watch as service
from orchestrator.process.service_watch import Watch
if sys.argv[5] != "inf":
    service.ANSWER_S = service.HOLD_S = service.WARN_S = 0.2
watch = Watch("the service", "127.0.0.1", int(sys.argv[1]), float(sys.argv[4]), float(sys.argv[5]))
if sys.argv[2] == "stopped":
    watch.stop()
if sys.argv[2] == "interrupted":
    requested.set()
print("watching", flush=True)
time.sleep(float(sys.argv[3]))
"""


def listening(port=0):
    server = socket.create_server(("127.0.0.1", port))
    server.settimeout(60)
    return server, server.getsockname()[1]


def watching(port, how="", seconds=60, patience=1, frozen="inf"):
    command = [sys.executable, "-c", PROGRAM, str(port), how, str(seconds), str(patience), str(frozen)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "watching\n"
    return process


def test_the_death_of_a_service_ends_the_process_with_one_line():
    server, port = listening()
    process = watching(port)
    connection, _ = server.accept()
    server.close()
    connection.close()
    _, told = process.communicate(timeout=30)
    assert process.returncode == 5
    assert told == "s4al: the service has died: the same command continues from the last saved state\n"


def test_a_service_that_was_started_again_in_time_is_not_dead():
    server, port = listening()
    process = watching(port, seconds=3, patience=60)
    connection, _ = server.accept()
    connection.close()  # it has only closed the connection
    connection, _ = server.accept()
    server.close()
    connection.close()
    time.sleep(1)  # nothing listens
    server, _ = listening(port)
    connection, _ = server.accept()
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 0
    connection.close()
    server.close()


@pytest.mark.parametrize("how", ["stopped", "interrupted"])
def test_an_end_that_was_asked_for_is_not_a_death(how):
    server, port = listening()
    process = watching(port, how, seconds=2.5)
    connection, _ = server.accept()
    server.close()
    connection.close()
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 0


def test_a_frozen_service_ends_the_process_and_one_that_answers_does_not():
    """The kernel takes connections for a process that is stopped: only that it says nothing shows it."""
    server, port = listening()
    process = watching(port, frozen=1)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 5
    waits, last = told.splitlines()
    assert waits == "waiting for the service, which says nothing, for 1 s at most"
    assert last.startswith("s4al: the service is frozen, or its machine is: it has said nothing for")
    assert last.endswith("the same command continues from the last saved state")

    process = watching(port, seconds=3, frozen=1)
    while process.poll() is None:
        server.settimeout(1)
        with suppress(TimeoutError), server.accept()[0] as connection:
            connection.sendall(b"settings")
            connection.recv(1)  # until the other side has held it long enough
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 0
    server.close()


def test_a_lock_that_is_held_for_ever_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking_uri, "PATIENCE_S", 0.2)
    uri = sqlite_uri(tmp_path / "mlflow.db")
    with (
        tracking_uri.alone(uri),
        pytest.raises(InfrastructureError, match="another process has held it"),
        tracking_uri.alone(uri),
    ):
        pass
    with tracking_uri.alone(uri):
        pass


def test_a_child_that_is_stopped_is_noticed_and_one_that_waits_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr("orchestrator.process.children.child_command", list)
    child = Child(["sleep", "60"], tmp_path / "log", {})
    process = child.process
    assert child.status(FROZEN_S + 1) is None
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    assert child.status(FROZEN_S) is None
    process.send_signal(signal.SIGCONT)
    os.waitid(os.P_PID, process.pid, os.WCONTINUED)
    assert child.status(FROZEN_S) is None  # it counts from the beginning again
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    assert child.status(FROZEN_S) is None
    assert child.status(1) == FROZEN
    assert how(FROZEN) == f"stopped (SIGSTOP) for {FROZEN_S:.0f} s and ended"
    assert process.returncode == -signal.SIGKILL
