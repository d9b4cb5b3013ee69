"""A run on a data set in a bucket is, byte for byte, that of the same data in a folder."""

import subprocess
import sys
from contextlib import nullcontext

import pytest

from benchmarks.results.findings import find_data, load_findings
from orchestrator.audit.data import audit_data, data_root
from orchestrator.backends.local_backend import LocalBackend
from orchestrator.folder.layout import RunLayout
from orchestrator.folder.recipe_file import read_recipe
from orchestrator.process.progress import SilentProgress
from orchestrator.run.start import carry_out
from querying.base.storage.place import place
from querying.base.storage.verbs import publish
from querying.dataset.shards import DataIndex
from tests.small import SMALL, small_config, small_run
from tests.store import process_environment
from tests.whole.test_end_to_end import ROOT, assert_same


@pytest.fixture(scope="module")
def in_a_folder(toy_data, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs") / "folder"
    small_run(toy_data.root, root)
    return root


@pytest.fixture
def there(url, toy_data):
    publish(toy_data.root, place(url), "index.json")
    return url


def now_and_then(method, path, number):
    """Every third request fails; of an index, which is refused where its bits change, none of these."""
    what = (503, "drop", "cut", "flip")[number // 3 % 4] if number % 3 == 0 else None
    return what if what != "flip" or path.endswith(".arrow") else None


def test_results_are_those_of_a_folder_though_the_store_fails_now_and_then(store, there, in_a_folder, tmp_path):
    store.reset(now_and_then)
    layout, index = RunLayout(tmp_path / "run"), DataIndex.load(place(there))
    carry_out(small_config(), index, layout, nullcontext(LocalBackend()), SilentProgress(), uri="none")
    assert len(store.seen) > 9, "the store was asked, and failed"
    assert_same(layout.root, in_a_folder)
    store.reset()
    provenance = read_recipe(layout.recipe)[1]
    assert provenance["data"]["root"] == there
    assert str(data_root(provenance)) == there
    assert list(audit_data(provenance, data_root(provenance))) == []
    found, why = find_data(load_findings([layout.root])[0])
    assert found is not None, why
    assert str(found.root) == there
    cache = str(tmp_path / "cache").encode()
    notes = [path for path in layout.root.rglob("*") if path.suffix in (".yaml", ".json", ".jsonl")]
    assert notes
    assert not [path for path in notes if cache in path.read_bytes() or b"their-secret" in path.read_bytes()]


@pytest.mark.ray
@pytest.mark.slow  # more than a minute on two cores
def test_workers_of_ray_fetch_for_themselves(store, there, in_a_folder, tmp_path):
    command = [
        sys.executable, "-m", "benchmarks", "run", "toy_s4al_plus", *SMALL, "query.actors=2", "--data", there,
        "--out", str(tmp_path / "run"), "--tracking", "none",
    ]  # fmt: skip
    environment = process_environment(store.url, tmp_path / "cache")
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "run", in_a_folder)
    fetched = [path for method, path in store.seen if method == "GET" and path.endswith(".arrow")]
    assert len(fetched) == len(set(fetched)), "once for all processes of the machine"
