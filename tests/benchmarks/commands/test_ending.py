"""What comes after a run's last cycle can fail, and costs it neither its end nor its copy in MLflow."""

import shutil

import pytest

import benchmarks.deploy.onnx_file
import benchmarks.report.page
from benchmarks.commands.ending import conclude_run
from orchestrator.backends.local_backend import LocalBackend
from orchestrator.folder.layout import RunLayout
from orchestrator.process.progress import SilentProgress
from orchestrator.run.context import RunContext
from querying.base.errors import DamagedError, InfrastructureError, Interrupted
from querying.base.files import read_json
from tests.small import small_config


class Mirror:
    def __init__(self):
        self.finished = []

    def sync(self): ...

    def finish(self, artefacts, onnx):
        self.finished.append((artefacts and artefacts.name, onnx and onnx.name))


class Progress(SilentProgress):
    def __init__(self):
        self.said = []

    def say(self, line):
        self.said.append(line)


@pytest.fixture
def conclude(finished, toy_data, tmp_path, monkeypatch):
    """Ends a copy of the run; returns what it told MLflow and what it said."""
    run = shutil.copytree(finished, tmp_path / "a run")
    monkeypatch.setattr(benchmarks.deploy.onnx_file, "export_onnx", lambda checkpoint, file: file.write_bytes(b"onnx"))
    monkeypatch.setattr(benchmarks.report.page, "write_report", lambda runs, out, index: out / "report.html")

    def conclude():
        mirror, progress = Mirror(), Progress()
        context = RunContext(config=small_config(), index=toy_data, layout=RunLayout(run), backend=LocalBackend(),
                             progress=progress, mirror=mirror)  # fmt: skip
        page = conclude_run(context, read_json(run / "summary.json"))
        assert page == (run / "report/report.html" if ("report", None) in mirror.finished else None)
        return mirror.finished, progress.said, run

    return conclude


def failing(error):
    def fail(*args):
        raise error

    return fail


def test_mlflow_is_closed_before_the_report_is_made(conclude, monkeypatch):
    finished, said, run = conclude()
    assert finished == [(None, "model.onnx"), ("report", None)]
    assert said == []
    assert read_json(run / "model.json")["cycle"] == 2


@pytest.mark.parametrize(
    "error", [KeyError("x"), DamagedError("a: not what was written"), MemoryError(), OSError("full")]
)
def test_a_report_that_fails_costs_the_run_nothing(conclude, monkeypatch, error):
    monkeypatch.setattr(benchmarks.report.page, "write_report", failing(error))
    finished, [line], run = conclude()
    assert finished == [(None, "model.onnx")]
    assert line.startswith(f"report: {type(error).__name__}")
    assert line.endswith(f"later: s4al report '{run}'")


@pytest.mark.parametrize("error", [InfrastructureError("logits differ"), RuntimeError("no such operator\nat line 3")])
def test_an_export_that_fails_costs_the_run_nothing(conclude, monkeypatch, error):
    monkeypatch.setattr(benchmarks.deploy.onnx_file, "export_onnx", failing(error))
    finished, [line], run = conclude()
    assert finished == [(None, None), ("report", None)]
    assert line.startswith(f"no model.onnx: {type(error).__name__}: {str(error).splitlines()[0]}")
    assert line.endswith(f"later: s4al export '{run}' '{run}/FILE.onnx'")
    assert not (run / "model.json").exists()


@pytest.mark.parametrize("module", [benchmarks.deploy.onnx_file, benchmarks.report.page])
def test_who_stops_it_there_stops_it(conclude, monkeypatch, module):
    name = "export_onnx" if module is benchmarks.deploy.onnx_file else "write_report"
    monkeypatch.setattr(module, name, failing(Interrupted("stop")))
    with pytest.raises(Interrupted):
        conclude()
