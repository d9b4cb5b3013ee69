"""Each stage says on what its workers ran; a run that was computed on several kinds of machine says so."""

import re
import shutil

import pytest

from orchestrator.folder.layout import RunLayout
from orchestrator.folder.machines import machine_lines
from orchestrator.folder.manifest import machines, noted, seal
from orchestrator.process.progress import SilentProgress
from querying.base.environment import MACHINE, identity
from querying.base.files import read_json, write_json
from tests.small import small_run


@pytest.fixture(scope="module")
def whole(toy_data, tmp_path_factory):
    root = tmp_path_factory.mktemp("machines") / "run"
    small_run(toy_data.root, root, "train.epochs=1")
    return root


def test_every_stage_that_computes_says_where(whole):
    layout = RunLayout(whole)
    for folder in (layout.checkpoint(0), layout.evaluation(0), layout.scores(0), layout.checkpoint(1)):
        assert machines(folder) == [identity(gpu=False)]
    assert "processor " in identity(gpu=False)
    assert "instructions " in identity(gpu=False)
    assert machine_lines(layout) == []
    assert not list(whole.rglob(f"{MACHINE}*"))


def test_what_chooses_kernels_is_part_of_it_and_what_ray_sets_is_not(monkeypatch):
    before = identity(gpu=False)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert identity(gpu=False) == before
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert set(identity(gpu=False).split("; ")) - set(before.split("; ")) == {"variable ONEDNN_MAX_CPU_ISA AVX2"}


def elsewhere(folder, kinds):
    manifest = read_json(folder / "manifest.json")
    write_json(folder / "manifest.json", {**manifest, "made_on": kinds})


def test_a_stage_that_was_copied_from_another_machine_is_said_when_it_is_used(whole, toy_data, tmp_path, monkeypatch):
    layout = RunLayout(shutil.copytree(whole, tmp_path / "run"))
    elsewhere(layout.scores(0), ["processor another; kernels ATen AVX2"])
    [line] = machine_lines(layout)
    assert line.startswith(f"not bit-exact: {layout.scores(0)} was computed not on that of {layout.checkpoint(0)}: ")
    assert "processor another" in line
    said = []
    monkeypatch.setattr(SilentProgress, "say", lambda self, line: said.append(line))
    small_run(toy_data.root, layout.root, "train.epochs=1")
    assert [line for line in said if "not bit-exact" in line] == [line]


def test_a_stage_of_two_kinds_of_workers_is_said(whole, tmp_path):
    layout = RunLayout(shutil.copytree(whole, tmp_path / "run"))
    elsewhere(layout.checkpoint(0), ["a; b", "a; c"])
    first, *_ = machine_lines(layout)
    assert re.fullmatch(r"not bit-exact: .*checkpoint was computed in part on another machine than .*: c, not b", first)


def test_a_worker_notes_its_machine_before_it_begins(tmp_path, monkeypatch):
    for number in (1, 2, 2):
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", f"AVX{number}")
        assert noted(lambda: 7, tmp_path, False, False)() == 7
    assert len(list(tmp_path.glob(f"{MACHINE}*.json"))) == 2
    seal(tmp_path, inputs={}, seconds=1)
    assert [f"variable ONEDNN_MAX_CPU_ISA AVX{n}" in one for n in (1, 2) for one in machines(tmp_path)] == [
        True, False, False, True,
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
