"""`s4al status` of runs that go on, are stopped, or are many; `--version`; the check of weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.commands import status
from benchmarks.commands.status import status_command
from benchmarks.recipes.catalogue import find
from orchestrator.folder.layout import locked
from orchestrator.folder.recipe_file import write_recipe
from orchestrator.recipe.config import changed
from orchestrator.run import weights_check
from orchestrator.run.weights_check import check_weights
from querying.base.errors import InfrastructureError, UserError
from tests.small import small_config
from training.fit.heartbeat import PROGRESS

ROOT = Path(__file__).parents[3]


def begun(root):
    root.mkdir(parents=True)
    write_recipe(root / "recipe.yaml", small_config(), {"schema": 1, "id": "x"})
    work = root / "cycle-000" / "training"
    work.mkdir(parents=True)
    (work / PROGRESS).write_text(json.dumps({"step": 40, "total": 100, "loss": 1.5, "rate": 0.5, "waiting": 0}))
    return root


def test_of_a_run_it_says_whether_it_runs_where_and_how_far(tmp_path, capsys):
    assert status.PROGRESS == PROGRESS
    run = begun(tmp_path / "run")
    with locked(run):
        status_command(run)
    said = capsys.readouterr().out
    assert f"run: running (pid {os.getpid()} on " in said
    assert "next: checkpoint of cycle 0: step 40 of 100, loss 1.500, about 2:00 left of this training" in said
    status_command(run)
    assert capsys.readouterr().out == f"{run}: stopped, next: checkpoint of cycle 0\n"


def test_of_a_grid_it_says_a_line_for_each_run(tmp_path, capsys):
    for seed in (0, 1):
        begun(tmp_path / "out/supervised/1_8" / f"seed-{seed}")
    with locked(tmp_path / "out/supervised/1_8/seed-1"):
        status_command(tmp_path / "out")
    first, second = capsys.readouterr().out.splitlines()
    assert first == "supervised/1_8/seed-0: stopped, next: checkpoint of cycle 0"
    assert second.startswith("supervised/1_8/seed-1: running (pid ")
    with pytest.raises(UserError, match="not a run folder"):
        status_command(tmp_path)


def test_what_was_not_begun_leaves_no_folder(tmp_path):
    with pytest.raises(UserError, match="no"), locked(tmp_path / "run"):
        raise UserError("no")
    assert not (tmp_path / "run").exists()


def test_weights_that_can_not_be_had_are_said_in_one_line_before_anything_is_written(tmp_path, monkeypatch):
    config = find("camvid_cpu")
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "https://127.0.0.1:9")  # nothing listens there
    with pytest.raises(
        InfrastructureError, match=r"mobilenetv2_100 can not be .* 127\.0\.0\.1 \(Connection refused\): set"
    ):
        check_weights(config)
    cached = tmp_path / "models--timm--mobilenetv2_100.ra_in1k/snapshots/a/model.safetensors"
    cached.parent.mkdir(parents=True)
    cached.touch()
    check_weights(config)
    check_weights(changed(config, model={"weights": "none"}))


def test_a_resolver_that_does_not_answer_is_not_waited_for(monkeypatch):
    import time

    monkeypatch.setattr(weights_check, "ANSWER_WITHIN_S", 0.1)

    def silent(*args, **kwargs):
        time.sleep(2)
        raise TimeoutError("late")

    monkeypatch.setattr("socket.create_connection", silent)
    began = time.monotonic()
    assert weights_check._silent("https://hub.invalid") == "no answer"
    assert time.monotonic() - began < 1.5


def test_the_version_is_said():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("s4al")


def test_every_line_of_recipes_begins_with_a_name_where_a_program_reads_it():
    done = subprocess.run([sys.executable, "-m", "benchmarks", "recipes"], cwd=ROOT, capture_output=True, text=True)
    assert all(find(line.split()[0]) for line in done.stdout.splitlines())


def test_show_says_what_keys_mean_and_is_the_same_recipe():
    from benchmarks.commands.show import commented
    from orchestrator.recipe.config import build
    from orchestrator.recipe.strict_yaml import parse_yaml

    for name in ("camvid_cpu", "toy_s4al_plus"):
        text = commented(find(name))
        assert "# Labelled images per step, over all workers.\n  batch_size:" in text
        assert max(map(len, text.splitlines())) <= 120
        assert build(parse_yaml(text, Path("x.yaml"))) == find(name)


def test_a_quick_run_is_the_recipe_with_fewer_steps_and_a_name_of_its_own():
    from benchmarks.recipes.catalogue import RECIPES, resolve

    for name in RECIPES:
        config = resolve(name, [], quick=True)
        assert config.name == f"{name}.quick"
        for cycle in range(config.cycles + 1):
            train = config.train_at(cycle, last=cycle == config.cycles)
            assert (train.epochs <= 2, train.steps_per_epoch <= 20) == (True, True)
        assert (config.cycles <= 1, config.reference) == (True, False)
    assert resolve("camvid_cpu", ["train.epochs=3"], quick=True).train.epochs == 3
