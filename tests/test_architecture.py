"""Rules that a reader relies on, checked on the source text."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
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
    allowed = path.parent == ROOT / "orchestrator" and (path.name.startswith("mlflow_") or path.name == "tracking.py")
    assert "mlflow" not in modules or allowed
    assert not modules & {"pickle", "cloudpickle", "dill", "joblib"}, "nothing is unpickled"
    assert not re.findall(RUNS_CODE, path.read_text()), "nothing that runs code from data"
    assert ("csv.writer" in path.read_text()) == (path.name == "plain_tables.py"), "its cells are no formulas"
    own = path.name == "terminal.py" or "performance" in path.parts
    assert own or not re.findall(r"(?<![\w.])Console\(|rich\.markup", path.read_text()), "orchestrator.terminal"
    assert len(path.read_text().splitlines()) <= 250
    if path.name == "__init__.py":
        assert path.read_text() == ""


def test_only_these_modules_open_the_truth():
    """No module that trains, scores or selects may see the masks of the pool."""
    readers = {str(path.relative_to(ROOT)) for path in MODULES if "read_truth" in path.read_text()}
    assert readers == {
        "querying/shards.py",
        "querying/oracle.py",
        "training/evaluation.py",
        "benchmarks/doctor.py",
        "benchmarks/overlays.py",
        "benchmarks/headroom.py",
    }


def test_the_packages_of_the_wheel_are_those_on_disk():
    import tomllib

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {str(path.parent.relative_to(ROOT)).replace("/", ".") for path in MODULES if path.name == "__init__.py"}
    assert set(listed) == found


def test_the_command_line_validates_without_loading_torch_or_ray():
    """A mistake must be found in seconds; importing torch and Ray alone takes longer on a busy machine."""
    import subprocess
    import sys

    code = (
        "import sys; import benchmarks.cli, benchmarks.run_command, benchmarks.recipes, benchmarks.preflight;"
        "print([m for m in ('torch', 'ray', 'mlflow', 'timm', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
