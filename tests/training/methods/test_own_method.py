"""A method of the user's own, by import path; the example is that of the documentation."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from querying.base.errors import UserError
from querying.base.own_code import read_source
from tests.small import SMALL, small_config, small_run
from training.methods.registry import method_class
from training.settings.traits import traits_of

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "start" / "own_code.md"
MINE = "train.method=focal:Focal", "query.acquisition=doubt:second_guess"

WRONG = """
from training.method_parts.method import Method
from training.settings.traits import Traits

class Bare(Method):
    pass

class Unknown(Method):
    traits = Traits(pool="pseudo", first="no such method")

class Apart:
    traits = Traits(pool="nothing")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """With the modules of the page, as a user would have them where the command is started."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for name, text in zip(("focal", "doubt", "small"), blocks, strict=True):
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "lab_of_wrong_methods.py").write_text(WRONG)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("focal", "doubt", "small", "lab_of_wrong_methods"):
        sys.modules.pop(name, None)
    sys.path.remove(str(tmp_path))


def test_the_example_of_the_documentation_trains_asks_and_is_noted(folder, toy_data):
    small_run(toy_data.root, folder / "run", *MINE)
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if row["stage"] == "train"]
    assert {row["cycle"] for row in trained if "train/focal" in row} == {0, 1}
    assert set(read_source("focal:Focal").hashes) == {"focal"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lab_of_nobody:Mine", r"lab_of_nobody can not be imported \(is its folder in PYTHONPATH\?\)"),
        ("lab_of_wrong_methods:Gone", "has no Gone"),
        ("lab_of_wrong_methods:Bare", "has no `traits = Traits"),
        ("lab_of_wrong_methods:Unknown", "its traits name 'no such method'"),
    ],
)
def test_what_brings_no_row_is_said_when_the_recipe_is_read(folder, name, message):
    sys.path.append(str(folder))
    with pytest.raises(UserError, match=message):
        small_config(f"train.method={name}")


def test_what_is_no_method_is_said_before_anything_starts(folder):
    assert traits_of("lab_of_wrong_methods:Apart").pool == "nothing"
    with pytest.raises(UserError, match=r"is no subclass of training\.method_parts\.method\.Method"):
        method_class("lab_of_wrong_methods:Apart")


@pytest.mark.slow
@pytest.mark.ray
def test_all_examples_run_on_ray_and_are_noted(folder, toy_data):
    words = [*SMALL, *MINE, "model.backbone=small:Small", "model.weights=none"]
    command = [sys.executable, "-m", "benchmarks", "run", "toy_s4al_plus", *words, "--data", str(toy_data.root)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    sys.path.append(str(folder))  # the fixture takes it away
    done = subprocess.run(
        [*command, "--out", "run", "--tracking", "none"], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    text = (folder / "run" / "recipe.yaml").read_text()
    assert "train/focal" in (folder / "run" / "metrics.jsonl").read_text()
    own_code = yaml.safe_load(text)["provenance"]["own_code"]
    assert set(own_code) == {"focal", "doubt", "small"}
