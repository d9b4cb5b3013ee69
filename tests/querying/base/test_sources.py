"""The source of what a user's module imports, found without running it."""

import sys
import zipfile

import pytest

from querying.base import environment
from querying.base.environment import ONLY_TELLS, libraries, machine, variables
from querying.base.own_code import _read, read_source
from querying.base.sources import own_sources
from querying.scoring.custom_acquisition import own_acquisition

TREE = {
    "lab_tree/__init__.py": "from lab_tree.set_up import SCALE\n",
    "lab_tree/set_up.py": "SCALE = 1\n",
    "lab_tree/ask.py": """
import importlib
import json
import numpy as np
from . import tools as t
from .deep.more import power
from lab_tree.stars import *
if False:
    raise RuntimeError("never run")
def score(log_p):
    import lab_lazy
    importlib.import_module("lab_named")
    importlib.import_module(".relative", "lab_tree")
    return log_p.sum(1)
raise SystemExit("a module that is only read")
""",
    "lab_tree/tools.py": "from querying.labels.pseudo_labels import IGNORE\nimport lab_not_there\n",
    "lab_tree/deep/more.py": "from .. import elsewhere\nfrom .... import too_far\nimport lab_space.inner.leaf\n",
    "lab_tree/elsewhere.py": "import lab_tree.ask\n",
    "lab_tree/relative.py": "",
    "lab_tree/stars/__init__.py": "__all__ = ['one']\n",
    "lab_tree/stars/one.py": "",
    "lab_tree/stars/two.py": "",
    "lab_tree/unused.py": "",
    "lab_lazy.py": "import scipy.stats\n",
    "lab_named.py": "def broken(:\n",
    "lab_space/inner/leaf.py": "",
}
FOUND = {
    "lab_tree", "lab_tree.set_up", "lab_tree.ask", "lab_tree.tools", "lab_tree.deep.more", "lab_tree.elsewhere",
    "lab_tree.relative", "lab_tree.stars", "lab_tree.stars.one", "lab_lazy", "lab_named", "lab_space.inner.leaf",
}  # fmt: skip


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name, text in TREE.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_all_that_is_imported_from_the_users_folders_is_found_and_none_of_it_is_run(tree):
    before = set(sys.modules)  # other tests of this process load modules of such names
    found = own_sources("lab_tree.ask")
    assert set(found.hashes) == FOUND
    assert found.installed == {"numpy", "scipy", "lab_not_there"}
    assert not any(name.startswith("lab_") for name in set(sys.modules) - before)


@pytest.mark.parametrize("name", ["lab_tree/__init__.py", "lab_lazy.py", "lab_space/inner/leaf.py", "lab_named.py"])
def test_an_edit_changes_the_hash_of_its_module_alone(tree, name):
    before = own_sources("lab_tree.ask").hashes
    with (tree / name).open("a") as file:
        file.write("# later\n")
    after = own_sources("lab_tree.ask").hashes
    module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert {one for one in before if before[one] != after[one]} == {module}


def test_a_module_in_an_archive_and_a_compiled_one_count(tmp_path, monkeypatch):
    archive = tmp_path / "lab.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("lab_zipped.py", "import lab_compiled\n")
    (tmp_path / "lab_compiled.pyc").write_bytes(b"not run either")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(archive)
    assert set(own_sources("lab_zipped").hashes) == {"lab_zipped", "lab_compiled"}


def test_an_installed_package_counts_where_it_is_the_acquisitions_own(tmp_path, monkeypatch):
    place = tmp_path / "site-packages"
    place.mkdir()
    (place / "lab_installed.py").write_text("import lab_other\n")
    (place / "lab_other.py").write_text("")
    monkeypatch.syspath_prepend(place)
    found = own_sources("lab_installed")
    assert (set(found.hashes), found.installed) == ({"lab_installed"}, {"lab_other"})


def test_what_is_imported_by_a_computed_name_is_found_where_it_was_loaded(tmp_path, monkeypatch):
    (tmp_path / "lab_plugin_a.py").write_text("")
    (tmp_path / "lab_computed.py").write_text(
        "import importlib\nfor kind in 'a': importlib.import_module(f'lab_plugin_{kind}')\n"
        "def score(log_p): return log_p.sum(1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own_acquisition("lab_computed:score")
    before = read_source("lab_computed:score")
    assert set(before.hashes) == {"lab_computed", "lab_plugin_a"}
    (tmp_path / "lab_plugin_a.py").write_text("# not what this process has imported\n")
    assert read_source("lab_computed:score") == before
    _read.clear()


def test_the_libraries_are_those_that_the_stages_import_and_what_these_require():
    found = libraries(frozenset({"matplotlib", "lab_not_there"}))
    assert {"torch", "timm", "numpy", "pillow", "pyarrow", "safetensors", "torchvision", "ray"} <= set(found)
    assert "mlflow" not in found, "no stage imports it"
    assert found["lab-not-there"] == "not installed"
    assert found["matplotlib"][0].isdigit(), "a user's own code imports it"


CORE = "processor\t: {}\nvendor_id\t: V\nmodel name\t: M\ncpu family\t: 6\nstepping\t: {}\nflags\t\t: fpu avx2{}\n\n"


def test_a_processor_is_its_models_and_its_instructions():
    def found(*cores):
        return environment._processor("".join(CORE.format(n, *core) for n, core in enumerate(cores)))

    plain = found((1, ""), (1, ""))
    assert plain["processor"] == "vendor_id V, model name M, cpu family 6, stepping 1"
    assert plain["instructions"].startswith("2 flags (")
    assert found((1, ""), (2, ""))["processor"] != plain["processor"]
    assert found((1, " avx512f"), (1, ""))["instructions"] != plain["instructions"]
    assert environment._processor("")["processor"]


def test_the_machine_is_described_in_words_without_paths_of_the_user():
    found = machine("cpu AVX2")
    assert {"processor", "instructions", "kernels", "system", "python"} <= set(found)
    assert "ATen" in found["kernels"]
    assert "oneDNN" in found["kernels"]


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("ONEDNN_MAX_CPU_ISA", True), ("DNNL_MAX_CPU_ISA", True), ("ATEN_CPU_CAPABILITY", True), ("MKL_CBWR", True),
        ("MKL_NUM_THREADS", True), ("OPENBLAS_CORETYPE", True), ("OMP_NUM_THREADS", True), ("KMP_AFFINITY", True),
        ("NVIDIA_TF32_OVERRIDE", True), ("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", True), ("NCCL_ALGO", True),
        ("CUBLAS_WORKSPACE_CONFIG", True), ("NPY_DISABLE_CPU_FEATURES", True), ("GLIBC_TUNABLES", True),
        ("LD_PRELOAD", True), ("ONEDNN_VERBOSE", False), ("NCCL_DEBUG", False), ("TORCH_HOME", False), ("PATH", False),
        ("MLFLOW_TRACKING_URI", False), ("OMP_DISPLAY_ENV", False),
    ],
)  # fmt: skip
def test_the_variables_that_choose_kernels(name, counts):
    assert (f"variable {name}" in variables({name: "x"})) == counts, ONLY_TELLS
