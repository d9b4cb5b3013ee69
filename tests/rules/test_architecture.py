"""Rules that a reader relies on, checked on the source text."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("orchestrator", "training", "querying", "benchmarks")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


RUNS_CODE = r"torch\.load\(|export\.load\(|dcp\.load|weights_only|allow_pickle|(?<![\w.])(?:eval|exec)\(|shell=True"


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_rules(path):
    modules = set(imported(path))
    assert ("ray" in modules) == path.name.startswith("ray_"), "Ray lives in ray_*.py, and nothing else does"
    assert "mlflow" not in modules or path.parent == ROOT / "orchestrator" / "tracking"
    assert not modules & {"pickle", "cloudpickle", "dill", "joblib"}, "nothing is unpickled"
    assert not re.findall(RUNS_CODE, path.read_text()), "nothing that runs code from data"
    assert ("csv.writer" in path.read_text()) == (path.name == "plain_tables.py"), "its cells are no formulas"
    own = path.name == "terminal.py" or "performance" in path.parts
    assert own or not re.findall(r"(?<![\w.])Console\(|rich\.markup", path.read_text()), "orchestrator.process.terminal"
    if path.name == "__init__.py":
        assert re.fullmatch(r'"""[^"\n]+\."""\n', path.read_text()), "the room's rule in one line, nothing else"


ROOMS = sorted({path.parent for path in MODULES})


@pytest.mark.parametrize("folder", ROOMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_has_its_rule_and_no_more_files_than_one_looks_over(folder):
    modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert (folder / "__init__.py").is_file()
    assert len(modules) + sum(path.parent == folder for path in ROOMS) >= 2
    assert len(modules) <= 15


def test_only_these_modules_open_the_truth():
    """No module that trains, scores or selects may see the masks of the pool."""
    readers = {str(path.relative_to(ROOT)) for path in MODULES if "read_truth" in path.read_text()}
    assert readers == {
        "querying/dataset/shards.py",
        "querying/labels/oracle.py",
        "querying/labels/pool_counts.py",
        "training/inference/evaluation.py",
        "benchmarks/datasets/doctor.py",
        "benchmarks/figures/overlays.py",
        "benchmarks/commands/headroom.py",
    }


def test_the_packages_of_the_wheel_are_those_on_disk():
    import tomllib

    from setuptools import find_packages

    how = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    found = find_packages(str(ROOT), include=how["include"])
    assert set(found) == {str(folder.relative_to(ROOT)).replace("/", ".") for folder in ROOMS}


def test_the_rooms_of_every_package_have_a_contract():
    """import-linter refuses a room that an exhaustive contract does not name, if there is such a contract."""
    import tomllib

    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    exhaustive = [one for one in contracts if one.get("exhaustive")]
    assert set(PACKAGES) <= {container for one in exhaustive for container in one["containers"]}


def test_the_command_line_validates_without_loading_torch_or_ray():
    """A mistake must be found in seconds; importing torch and Ray alone takes longer on a busy machine."""
    import subprocess
    import sys

    code = (
        "import sys; import benchmarks.cli.app, benchmarks.commands.run, benchmarks.recipes.catalogue;"
        "import orchestrator.run.preflight, orchestrator.run.start, orchestrator.run.protocol;"
        "import orchestrator.studies.grid, training.settings.methods;"
        "print([m for m in ('torch', 'ray', 'mlflow', 'timm', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
