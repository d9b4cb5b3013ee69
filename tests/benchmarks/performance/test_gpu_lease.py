"""What `make gpu` does with its minutes, and what it keeps of its tests and measurements."""

import json
import subprocess
import sys

import pytest

from benchmarks.performance import gpu
from querying.base.files import read_json, write_json


def options(tmp_path, *words):
    found = gpu.parsed([*words, "--out", str(tmp_path / "out"), "--name", "x-gpu"])
    gpu.check(found)
    return found


def test_the_steps_of_make_gpu_are_in_order_and_fit_a_lease(tmp_path):
    steps = gpu.steps(options(tmp_path, "--dry", "--seeds", "0,1"))
    assert [step.name for step in steps] == ["tests", "data", "rows", "bench"]
    names = [job.name for job in steps[2].jobs]
    assert names[:2] == ["s4al_plus-seed0", "supervised-seed0"]
    assert len(names) == len(set(names)) == 12
    assert sum(step.seconds or 0 for step in steps) < 14 * 60 / 2, "half of a lease is for the rows"
    assert steps[2].seconds is None
    assert gpu.steps(options(tmp_path, "--dry", "--seeds", "0,1,00"))[2].jobs[-1].name == names[-1], "0 and 00 are one"


def test_a_run_has_ended_when_its_summary_says_so(tmp_path):
    from tests.small import FINISHED

    assert not gpu.has_ended(tmp_path)
    for finished in (False, True):
        write_json(tmp_path / "summary.json", {**FINISHED, "finished": finished})
        assert gpu.has_ended(tmp_path) == finished


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--data", "x"], "there is no GPU here"),
        (["--dry", "--seeds", "0,one"], "--seeds 0,one"),
        (["--dry", "--minutes", "0"], "--minutes 0"),
        (["--dry", "--data", "mine"], "leave --data and --source out"),
    ],
)
def test_mistakes_are_named_before_a_lease_begins(words, why, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.main([*words, "--out", str(tmp_path / "out")]) == 2
    assert why in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_failed_tests_and_the_first_machines_threads_are_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu.Lease, "work", lambda lease, seconds: True)
    words = ["--dry", "--out", str(tmp_path / "out"), "--name", "x-gpu"]
    seen = []
    monkeypatch.setattr(gpu, "steps", lambda options: seen.append(options.threads) or [])
    for cpus in (8, 2):
        monkeypatch.setattr(gpu.os, "sched_getaffinity", lambda _, cpus=cpus: set(range(cpus)), raising=False)
        assert gpu.main([*words, "--at-once", "1"]) == 0
    assert seen == [8, 8], "a run that goes on elsewhere keeps its threads, which decide its bits"
    write_json(tmp_path / "out/records/x-gpu/tests.json", {"failing": ["tests.test_a::test_bad"]})
    assert gpu.main(words) == 1
    assert "tests failed: tests.test_a::test_bad" in capsys.readouterr().err


def test_how_tests_and_bench_ended_is_kept(tmp_path, make_junit):
    record = tmp_path / "record"
    gpu.keep_tests(make_junit, record)
    found = read_json(record / "tests.json")
    assert (found["passed"], found["failed"], found["skipped"]) == (2, 2, 1)
    assert found["failing"] == ["tests.test_a::test_bad", "tests.test_a::test_error"]
    assert gpu.failing_tests(record) == found["failing"]
    assert gpu.failing_tests(tmp_path / "none") == []
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench/bench.json").write_text('{"machine": {"cpu": "x"}, "results": [{"at": "/home/alice/x"}]}')
    gpu.keep_bench(tmp_path / "bench", record)
    assert json.loads((record / "bench.json").read_text())["results"] == [{"at": "x"}]


@pytest.fixture
def make_junit(tmp_path):
    """What pytest itself writes."""
    (tmp_path / "test_a.py").write_text(
        "import pytest\n"
        "def test_one(): pass\n"
        "def test_two(): pass\n"
        "def test_bad(): assert False\n"
        "@pytest.fixture\ndef broken(): raise ValueError\n"
        "def test_error(broken): pass\n"
        "def test_skipped(): pytest.skip('no')\n"
    )
    xml = tmp_path / "tests.xml"
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={xml}", f"--rootdir={tmp_path}",
         str(tmp_path / "test_a.py")], capture_output=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    text = xml.read_text()
    xml.write_text(text.replace('classname="test_a"', 'classname="tests.test_a"'))
    return xml
