"""A process that watches a service ends with it, and only with it."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, time
from orchestrator.interrupt import requested
from orchestrator.watch import Watch
watch = Watch("the service", "127.0.0.1", int(sys.argv[1]), float(sys.argv[4]))
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


def watching(port, how="", seconds=60, patience=1):
    command = [sys.executable, "-c", PROGRAM, str(port), how, str(seconds), str(patience)]
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
