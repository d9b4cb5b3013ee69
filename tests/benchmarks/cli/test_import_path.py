"""Users have files called training.py: beside them, every process of ours still imports ours."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.process.child import child_command
from querying.base.errors import UserError
from querying.scoring.custom_acquisition import own_acquisition
from tests.small import SMALL

ROOT = Path(__file__).parents[3]
OTHERS = ("orchestrator", "querying", "training", "numpy", "yaml", "typing_extensions")
MINE = "def surprise(log_p):\n    return -(log_p.exp() * log_p).sum(1)\n"


@pytest.fixture
def folder(tmp_path):
    """A user's folder with modules of the names of others', which say so, and leave, when they are imported."""
    for name in OTHERS:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('the user\\'s {name} was imported')\n")
    (tmp_path / "beside_training.py").write_text(MINE)
    for name in ("training", "orchestrator", "benchmarks"):  # folders, too: data, results
        (tmp_path / "with_folders" / name).mkdir(parents=True)
    return tmp_path


def ours(folder, *words, **changes):
    return subprocess.run([*words], cwd=folder, capture_output=True, text=True, **changes)


@pytest.mark.parametrize("way", ["-m", "uploaded", "child", "script"])
def test_a_command_imports_ours(folder, way):
    script = Path(sys.executable).with_name("s4al")
    if way == "script" and not script.exists():
        pytest.skip("not installed")
    command = {"child": child_command([]), "script": [sys.executable, str(script)]}.get(
        way, [sys.executable, "-m", "benchmarks"]
    )
    if way == "uploaded":  # `ray job submit --working-dir .`, with the user's files in it
        for package in ("benchmarks", "orchestrator", "querying", "training"):
            shutil.copytree(ROOT / package, folder / package, dirs_exist_ok=True)
    if way != "-m":  # there it is what Python starts, and nothing of ours ever runs (docs/reference/run_folder.md)
        (folder / "benchmarks.py").write_text("raise SystemExit('the user\\'s benchmarks was imported')\n")
    for place in (folder, folder / "with_folders") if way != "uploaded" else (folder,):
        done = ours(place, *command, "show", "toy_splits")
        assert done.returncode == 0, done.stderr
        assert "\nname: toy_splits\n" in done.stdout


def test_a_users_acquisition_lies_where_the_command_is_started(folder, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert own_acquisition("beside_training:surprise", folder).__name__ == "surprise"
    assert sys.path[-1] == str(folder)  # after all others
    with pytest.raises(UserError, match=r"has no mine; .*training\.py is not looked at, since .* has its name: rename"):
        own_acquisition("training:mine", folder)


@pytest.mark.slow
@pytest.mark.ray
def test_a_run_on_ray_beside_a_users_files_of_the_same_names(folder, toy_data, tmp_path):
    command = [*child_command(["run", "toy_s4al_plus", *SMALL]), "query.acquisition=beside_training:surprise"]
    command += ["--data", str(toy_data.root), "--out", str(tmp_path / "run"), "--tracking", "none"]
    done = ours(folder, *command)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/report/report.html").exists()
