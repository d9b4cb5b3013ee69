"""Stand-ins for the jobs of `make gpu`: processes that say in a journal what they do; also a program, to be killed.

python tests/benchmarks/performance/standins.py FOLDER SECONDS
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT))

from benchmarks.performance.lease import Job, Lease, Step  # noqa: E402
from orchestrator.folder.layout import locked  # noqa: E402

UNITS = 12
JOB = """
import json, os, signal, sys, time
folder, name, units, goes_on, status = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "1", int(sys.argv[5])
def note(what):
    with open(f"{folder}/journal", "a") as file:
        file.write(json.dumps([name, what, os.getpid()]) + "\\n")
note("begin")
done = f"{folder}/{name}.units"
start = int(open(done).read()) if goes_on and os.path.exists(done) else 0
signal.signal(signal.SIGTERM, lambda *_: (note("saved"), os._exit(130)))
for unit in range(start, units):
    time.sleep(0.05)
    note("unit")
    with open(done + ".new", "w") as file:
        file.write(str(unit + 1))
    os.replace(done + ".new", done)
note("end")
sys.exit(status)
"""


def job(folder, name, *, units=UNITS, goes_on=False, status=0, **more):
    words = [sys.executable, "-c", JOB, str(folder), name, str(units), str(int(goes_on)), str(status)]

    def keep():
        with open(f"{folder}/journal", "a") as file:
            file.write(json.dumps([name, "kept", os.getpid()]) + "\n")
        Path(folder, f"{name}.kept").touch()

    return Job(name, words, keep, Path(folder, f"{name}.kept").exists, goes_on=goes_on, **more)


def standins(folder, units=UNITS, kept_s=30.0):
    """As `make gpu` has them: tests, then rows that go on by themselves, two at a time, then the bench, for which
    `kept_s` are kept: work of a fifth of a second, in a process that may take long to start on a busy machine."""
    return [
        Step("tests", [job(folder, "tests", units=4)], kept_s),
        Step("rows", [job(folder, f"row{n}", units=units, goes_on=True) for n in range(4)], None, at_once=2),
        Step("bench", [job(folder, "bench", units=4)], kept_s),
    ]


def continued(folder, seconds=120.0, **sizes):
    with locked(Path(folder, "lease")):
        lease = Lease(Path(folder, "lease"))
        lease.steps = standins(folder, **sizes)
        return lease.work(seconds)


def journal(folder):
    path = Path(folder, "journal")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def count(rows, name, what):
    return sum(row[:2] == [name, what] for row in rows)


def driver(folder, seconds=120.0, **environment):
    return subprocess.Popen([sys.executable, __file__, str(folder), str(seconds)], env={**os.environ, **environment})


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background begins with it ignored
    continued(sys.argv[1], float(sys.argv[2]))
