import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests.store import BUCKET, Proxy, environment, moto_server

torch.set_num_threads(1)  # the tests' networks are tiny; two threads would only wait for each other

MEMORY, ROOM = Path("/dev/shm"), 8 * 2**30
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM:  # the tests wait for thousands of flushes otherwise
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

# Ray's workers are nice to others (15): beside two other test processes they would have next to nothing of two cores.
os.environ.setdefault("RAY_worker_niceness", "0")

# `pytest --hypothesis-profile=fuzz tests/inputs/test_fuzz.py`: some 1,000 cases for every loader instead of 25.
settings.register_profile("fuzz", max_examples=4000, deadline=None)

LONGEST = ("test_end_to_end_on_ray.py", "test_faults.py", "test_end_to_end.py")
"""Files that take minutes with few tests: begun last, one process would wait for the other."""


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def local_ray():
    """A local cluster of 2 CPUs for the whole session."""
    ray = pytest.importorskip("ray")
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=0,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )
    yield ray
    ray.shutdown()


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory):
    """A small generated data set: 24 train, 4 val, 6 test scenes of 48x64, 6 classes, in shards of 5."""
    from benchmarks.datasets.ingest import ingest

    root = tmp_path_factory.mktemp("data") / "toy"
    return ingest("toy", None, root, size=(48, 64), shard_size=5, counts=(24, 4, 6), num_classes=6)


@pytest.fixture
def camvid():
    folder = os.environ.get("S4AL_CAMVID")
    if not folder:
        pytest.skip("S4AL_CAMVID is not set: no real CamVid on this machine")
    return Path(folder)


@pytest.fixture(scope="session")
def moto_port():
    pytest.importorskip("obstore", reason="no obstore on this machine: pip install 's4al-plus[s3]'")
    pytest.importorskip("moto", reason="no moto on this machine: pip install 's4al-plus[dev]'")
    with moto_server() as port:
        yield port


@pytest.fixture
def store(moto_port, monkeypatch, tmp_path):
    """A proxy before an S3 server, which this process reaches with the usual variables; an empty cache."""
    proxy = Proxy(moto_port)
    for name, value in environment(proxy.url, tmp_path / "cache").items():
        monkeypatch.setenv(name, value)
    yield proxy
    proxy.close()


@pytest.fixture
def url(request, store):
    """A place in the bucket that is this test's own."""
    return f"s3://{BUCKET}/{request.node.name.replace('[', '/').rstrip(']')}"
