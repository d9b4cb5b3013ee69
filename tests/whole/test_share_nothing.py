"""Two hosts that share a network and a bucket, and no folder: the run of one process, byte for byte."""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys

import pytest

from querying.base.pulse import read_beat
from querying.base.storage.place import place
from querying.base.storage.verbs import publish
from tests.faults.processes import SCORER, TRAIN_WORKER, until
from tests.hosts import NET, Hosts, lose, needs_namespaces, seen_by
from tests.small import SMALL, small_run
from tests.store import BUCKET, Proxy, process_environment
from tests.whole.test_end_to_end import ROOT, assert_same, finals, weights

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]
CONFIG = ["train.epochs=12", "train.steps_per_epoch=4", "query.scales=[1,2,2,2]", "query.batch_size=1"]
PORT = 6399
SHARDS = 12


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    from benchmarks.datasets.ingest import ingest

    root = tmp_path_factory.mktemp("data") / "toy"
    return ingest("toy", None, root, size=(48, 64), shard_size=2, counts=(24, 4, 6), num_classes=6)


@pytest.fixture(scope="module")
def in_one_process(data, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs") / "one"
    small_run(data.root, root, *CONFIG)
    return root


@pytest.fixture
def hosts(tmp_path):
    needs_namespaces()
    (tmp_path / "hidden").mkdir()
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    made = Hosts(tmp_path / "hidden", tmp_path, process_environment("", "", **token))
    yield made
    made.close()


@pytest.fixture
def url(moto_port, hosts, data, tmp_path, monkeypatch):
    """The data in a bucket, at an address that the hosts reach."""
    proxy = Proxy(moto_port, f"{NET}.254")
    here = process_environment(proxy.url, tmp_path / "cache")
    hosts.env |= {name: here[name] for name in here if name.startswith(("AWS_", "GOOGLE_"))}
    for name, value in here.items():
        monkeypatch.setenv(name, value)
    there = f"s3://{BUCKET}/{tmp_path.name}"
    publish(data.root, place(there), "index.json")
    yield there
    proxy.close()


class Cluster:
    """The driver's host, whose node has no CPU to lend, and others that do not see its run folder."""

    def __init__(self, hosts, url):
        self.hosts, self.url, self.run = hosts, url, hosts.hidden / "run"
        self.first = hosts.host()
        head = ["--head", f"--port={PORT}", f"--temp-dir={hosts.temporary}", "--include-dashboard=false"]
        self.first.ray(*head, cpus=0, first=True)

    def add(self):
        return self.hosts.host().ray(f"--address={self.first.address}:{PORT}", cpus=1)

    def start(self, *overrides):
        command = [
            sys.executable, "-m", "benchmarks", "run", "toy_s4al_plus", *SMALL, *CONFIG, *overrides, "--data", self.url,
            "--out", self.run, "--tracking", "none", "--address", f"{self.first.address}:{PORT}",
        ]  # fmt: skip
        return self.first.start(command, first=True)

    def wait(self, driver, node, pattern, words):
        """Until there is such a file, made by such a process on that node."""
        assert until(lambda: list(self.run.glob(pattern)) or not driver.running, 300), driver.told()
        assert driver.running, driver.told()
        assert node.find(words), "at work elsewhere"


def test_a_node_that_sees_nothing_of_the_run_gives_its_bytes(hosts, url, in_one_process):
    cluster = Cluster(hosts, url)
    node = cluster.add()
    driver = cluster.start()
    cluster.wait(driver, node, "cycle-000/training/states/step-*", TRAIN_WORKER)
    assert read_beat(cluster.run / "cycle-000" / "training" / "pulse.json").pid in node.find(TRAIN_WORKER)
    os.kill(driver.process.pid, signal.SIGINT)
    assert driver.end(100) == 130, driver.told()
    assert "state saved: the same command continues there" in driver.told()
    assert not (cluster.run / "cycle-000" / "checkpoint").exists()
    driver = cluster.start()
    cluster.wait(driver, node, "cycle-000/scores-*.tmp/shard-*.json", SCORER)
    assert {read_beat(path).pid for path in cluster.run.glob(".tmp-stage-*/.tmp-beats-*/*.json")} <= set(
        node.find(SCORER)
    )
    assert driver.end(600) == 0, driver.told()
    assert_same(cluster.run, in_one_process)
    there = seen_by(node, hosts.hidden)
    assert [path.name for path in there.iterdir()] == ["host-2"], "nothing of the run, also not by mistake"
    assert [path.name for path in (there / "host-2" / "tmp").glob("s4al-mirror*")] == []
    assert not [path for path in cluster.run.rglob("*") if ".tmp" in path.name]


def test_a_node_may_go_while_it_trains_and_while_it_scores(hosts, url, in_one_process):
    cluster = Cluster(hosts, url)
    second = cluster.add()
    driver = cluster.start("train.max_failures=3")
    cluster.wait(driver, second, "cycle-000/training/states/step-*", TRAIN_WORKER)
    lose(second)
    assert not (cluster.run / "cycle-000" / "checkpoint").exists()
    training, steps = cluster.run / "cycle-000" / "training", []
    saved = max(int(path.name[5:]) for path in (training / "states").glob("step-*"))
    (training / "progress.json").unlink()
    third = cluster.add()

    def watched():
        with contextlib.suppress(OSError, ValueError):
            steps.append(json.loads((training / "progress.json").read_text())["step"])
        return (training.parent / "checkpoint").exists() or not driver.running

    assert until(watched, 300)
    assert min(steps) > saved > 0, "not continued from the state that the lost node had sent"
    nodes = [third, cluster.add()]
    scoring = "cycle-000/scores-*.tmp/shard-*.json"
    assert until(lambda: list(cluster.run.glob(scoring)) or not driver.running, 300)
    [lost] = [node for node in nodes if node.find(SCORER)]
    lose(lost)
    there = {path.name: path.stat().st_mtime_ns for path in cluster.run.glob(scoring)}
    assert 0 < len(there) < SHARDS, "it was over before"
    assert driver.end(900) == 0, driver.told()
    assert_same(cluster.run, in_one_process)
    scores = cluster.run / "cycle-000" / "scores"
    assert {name: (scores / name).stat().st_mtime_ns for name in there} == there, "computed again"


def test_two_ranks_on_hosts_of_their_own_train_as_on_one_machine(hosts, url, data, tmp_path):
    """Also when the second one's host goes: both begin again from the state that the first had sent."""
    two = ["cycles=0", "train.workers=2", "train.batch_size=4", "teacher.batch_size=4", "train.timeout=20"]
    hosts.env["GLOO_SOCKET_IFNAME"] = "eth0"
    cluster = Cluster(hosts, url)
    nodes = [cluster.add(), cluster.add()]
    driver = cluster.start(*two, "train.max_failures=3")
    cluster.wait(driver, nodes[0], "cycle-000/training/states/step-*", TRAIN_WORKER)
    assert nodes[1].find(TRAIN_WORKER)
    lose(nodes[1])
    assert not (cluster.run / "cycle-000" / "checkpoint").exists()
    cluster.add()
    status = driver.end(600)
    if status == 5:  # the new node came too late for the group
        driver = cluster.start(*two)
        status = driver.end(600)
    assert status == 0, driver.told()
    command = [sys.executable, "-m", "benchmarks", "run", "toy_s4al_plus", *SMALL, *CONFIG, *two, "--data", data.root]
    command += ["--out", tmp_path / "together", "--tracking", "none"]
    subprocess.run([str(word) for word in command], cwd=ROOT, check=True, env=process_environment("", ""))
    assert weights(cluster.run, 0) == weights(tmp_path / "together", 0)
    assert finals(cluster.run) == finals(tmp_path / "together")
