"""The source distribution and the wheel that is built from it, in an environment that has nothing else of ours."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def built(kind, source, out):
    """The archive that setuptools makes of `source`, as pip and `python -m build` let it."""
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-c", BUILD, f"build_{kind}", str(out)]
    made = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return out / made.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    root = tmp_path_factory.mktemp("package")
    source = root / "source"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout: what belongs to the source is not known")
    for name in tracked.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    with tarfile.open(built("sdist", source, root / "out")) as archive:
        archive.extractall(root / "unpacked", filter="data")
    (unpacked,) = (root / "unpacked").iterdir()
    return built("wheel", unpacked, root / "out")


def test_the_wheel_has_all_that_is_read_at_run_time(wheel):
    """Whatever lies in the packages and is no code, and the marks that there are types."""
    tracked = subprocess.run(
        ["git", "ls-files", "benchmarks", "orchestrator", "querying", "training"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == {name for name in tracked.stdout.splitlines() if (ROOT / name).is_file()}
    assert {"benchmarks/py.typed", "training/py.typed"} <= packed


def test_the_wheel_works_from_another_folder(wheel, tmp_path):
    target = tmp_path / "installed"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target, wheel]
    subprocess.run(install, check=True)
    environment = {**os.environ, "PYTHONPATH": str(target)}

    def call(*words):
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "toy_s4al_plus" in call(sys.executable, target / "bin/s4al", "recipes")
    where = call(
        sys.executable, "-c", "import benchmarks, orchestrator; print(benchmarks.__file__, orchestrator.__file__)"
    )
    assert where.split() == [str(target / name / "__init__.py") for name in ("benchmarks", "orchestrator")]
    assert call(sys.executable, target / "bin/s4al", "--version").startswith("s4al 0.")
