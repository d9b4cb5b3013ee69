"""Files of answers that are made to take time and memory: how much each of them takes until it is refused."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np

from tests.benchmarks.formats.packages import annotation, brush, make_package, task
from tests.benchmarks.formats.test_rle import bits_of

ROOT = Path(__file__).parents[2]
SIZE = 512, 1024
MEASURE = """
import sys, time
from pathlib import Path
from benchmarks.formats.answers_in import read_answers
from orchestrator.annotation.package import read_note
from querying.base.errors import UserError
package = read_note(Path(sys.argv[1]))
for path in map(Path, sys.argv[2:]):
    Path("/proc/self/clear_refs").write_text("5")  # the peak that is counted begins anew
    started = time.process_time()
    try:
        with read_answers(package, path) as answers:
            said = str(sum(1 for _ in answers.found))
    except UserError as error:
        said = str(error)
    status = Path("/proc/self/status").read_text()
    peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024
    print(path.name, round(peak), round(time.process_time() - started, 2), said, sep="\\t", flush=True)
"""


def in_a_task(package, rle):
    """The text of a file with one task, its run lengths those."""
    result = brush(package, "road", np.zeros(package.images[0].size, bool))
    result["value"]["rle"] = "HERE"
    text = json.dumps([task(package, "a", annotation([result]))])
    return text.replace('"HERE"', rle)


def write(folder, package):
    """Name -> what is said."""
    words = 4 * SIZE[0] * SIZE[1]
    (folder / "2gb.json").write_bytes(b"[")
    os.truncate(folder / "2gb.json", 2 << 30)
    (folder / "deep.json").write_text("[" * 10**7)
    (folder / "lists.json").write_text(in_a_task(package, "[" + "[]," * 5_000_000 + "0]"))
    (folder / "mappings.json").write_text(in_a_task(package, "[" + '{"a":1},' * 3_000_000 + "0]"))
    (folder / "texts.json").write_text(in_a_task(package, "[" + '"ab",' * 6_000_000 + "0]"))
    (folder / "floats.json").write_text(in_a_task(package, "[" + "1.5," * 8_000_000 + "0]"))
    (folder / "long.json").write_text(in_a_task(package, f"[{'0,' * (2 * words + 64)}0]"))
    runs = bits_of([(0, 1, 255)] * 100_000, words)
    (folder / "short-runs.json").write_text(in_a_task(package, json.dumps(runs)))
    (folder / "text.json").write_text(f'["{"a" * (100 << 20)}"]')
    with zipfile.ZipFile(folder / "many.zip", "w") as file:
        for number in range(70_000):
            file.writestr(str(number), b"")
    with zipfile.ZipFile(folder / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("masks/a.png", bytes(200 << 20))
    return {
        "2gb.json": "2048 MB of JSON", "deep.json": "nested more than 32 deep", "lists.json": "has over 262144 parts",
        "mappings.json": "has over 262144 parts", "texts.json": "has over 262144 parts",
        "floats.json": "8000001 bytes, more than", "long.json": "more than 4194368 for",
        "short-runs.json": "ends early, after 100000", "text.json": "has more than 32 MB",
        "many.zip": "more than 65000 members", "bomb.zip": "made to fill memory",
    }  # fmt: skip


def test_each_is_refused_in_5_seconds_and_512_mb_with_one_line_that_names_it(tmp_path):
    package = make_package(tmp_path / "p", {"a": None, "b": None}, size=SIZE)
    said = write(tmp_path, package)
    command = [sys.executable, "-c", MEASURE, package.root, *(tmp_path / name for name in said)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [name for name, *_ in lines] == list(said)
    for name, peak, seconds, line in lines:
        assert line.startswith(str(tmp_path / name)), line
        assert said[name] in line, line
        assert float(peak) <= 512, (name, peak)
        assert float(seconds) < 5, (name, seconds)
