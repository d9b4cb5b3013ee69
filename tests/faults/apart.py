"""Hosts that share a network and a bucket and no folder, and runs of the command line on them, data and run in the
bucket."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.commands.verify import verify_command
from orchestrator.remote.checkout import view
from orchestrator.remote.log import RunLog, State
from querying.base.errors import S4ALError
from querying.base.storage import bucket
from querying.base.storage.place import Remote, place
from querying.base.storage.verbs import publish
from tests.faults.common import contents
from tests.faults.processes import Program, until
from tests.hosts import NET, Host, Hosts, lose, seen_by
from tests.small import SMALL, small_run
from tests.store import BUCKET, Proxy, environment, process_environment

CONFIG = [
    "cycles=2", "train.epochs=12", "train.steps_per_epoch=4", "query.scales=[1,2,2,2]", "query.batch_size=1",
]  # fmt: skip
PORT = 6399
LIMIT_S = 600


class Apart:
    """Two hosts for drivers, whose nodes have no CPU to lend, and two that work; a store behind a proxy, which the
    harness does not pass."""

    def __init__(self, scratch: Path, moto_port: int, config: list[str], patience: float = 1.0) -> None:
        self.scratch, self.config, self.limit_s = scratch, [*SMALL, *config], LIMIT_S * patience
        os.environ.update(environment(f"http://127.0.0.1:{moto_port}", scratch / "cache"))
        (scratch / "hidden").mkdir()
        self.hosts = Hosts(scratch / "hidden", scratch, {})
        self.proxy = Proxy(moto_port, f"{NET}.254")
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.hosts.env |= process_environment(self.proxy.url, "", **token)
        self.nodes: list[Program] = []

    def close(self) -> None:
        self.hosts.close()
        self.proxy.close()

    def prepare(self) -> None:
        """The data, an undisturbed run of one process in a folder, and the cluster."""
        from benchmarks.datasets.ingest import ingest

        data = ingest("toy", None, self.scratch / "toy", size=(48, 64), shard_size=2, counts=(24, 4, 6), num_classes=6)
        self.data = f"s3://{BUCKET}/{secrets.token_hex(4)}/toy"
        publish(data.root, place(self.data), "index.json")
        small_run(data.root, self.scratch / "one", *self.config)
        self.expected = contents(self.scratch / "one")
        self.first, self.second = self.hosts.host(), self.hosts.host()
        head = ["--head", f"--port={PORT}", f"--temp-dir={self.hosts.temporary}", "--include-dashboard=false"]
        self.drivers = {self.first: self.first.ray(*head, cpus=0, first=True)}
        self.drivers[self.second] = self.second.ray(f"--address={self.address}", cpus=0, alone=True)
        self.add()
        self.add()

    @property
    def address(self) -> str:
        return f"{self.first.address}:{PORT}"

    def add(self) -> Program:
        self.nodes.append(self.hosts.host().ray(f"--address={self.address}", cpus=1))
        return self.nodes[-1]

    def lose(self, node: Program) -> None:
        self.nodes.remove(node)
        lose(node)

    def working(self, words: str) -> list[Program]:
        """The nodes on which there is such a process."""
        return [node for node in self.nodes if node.find(words)]

    @contextmanager
    def run(self) -> Iterator[Run]:
        """A run at a place of its own, which is removed from the bucket at the end."""
        self.proxy.reset()
        run = Run(self)
        try:
            yield run
        finally:
            for driver in run.drivers:
                driver.clean_up()
            self.proxy.reset()
            for name in bucket.sizes(run.place):
                bucket.remove(run.place / name)
            for copies in run.copies:
                shutil.rmtree(copies, ignore_errors=True)


class Run:
    """A run in the bucket, and the drivers that have worked on it."""

    def __init__(self, apart: Apart) -> None:
        self.apart, self.name = apart, f"run-{secrets.token_hex(4)}"
        self.place = Remote("s3", BUCKET, f"runs/{self.name}")
        self.log = RunLog(self.place)
        self.drivers: list[Program] = []
        self.copies: list[Path] = []

    @property
    def driver(self) -> Program:
        return self.drivers[-1]

    def start(self, host: Host | None = None) -> Program:
        """The command, with an empty cache, on one of the hosts for drivers."""
        self.host = host or self.apart.first
        cache = self.apart.hosts.hidden / f"host-{self.host.number}" / f"{self.name}-{len(self.drivers)}"
        command = [
            sys.executable, "-m", "benchmarks", "run", "toy_s4al_plus", *self.apart.config, "--data", self.apart.data,
            "--out", self.place, "--tracking", "none", "--address", self.apart.address,
        ]  # fmt: skip
        node = self.apart.drivers[self.host]
        alone, env = self.host is self.apart.second, {"S4AL_CACHE": str(cache)}
        self.drivers.append(self.host.start(command, beside=node, alone=alone, env=env))
        self.copies.append(seen_by(node, cache))
        return self.driver

    def other_host(self) -> Host:
        [other] = set(self.apart.drivers) - {self.host}
        return other

    def files(self, pattern: str) -> list[Path]:
        """Of the last driver's working copy."""
        return list(self.copies[-1].glob(f"runs/*/{self.name}/{pattern}"))

    def state(self) -> State:
        return self.log.state()

    def published(self) -> set[str]:
        """What is in the bucket of what must not depend on how the run came to its end."""
        there = self.state().files
        return {name for name in self.apart.expected if name in there}

    def goes_on(self, before: set[str]) -> bool:
        """Wait until more is published, or the last driver ends well."""
        seen = -1

        def more() -> bool:
            nonlocal seen
            entries = len(bucket.sizes(self.place / "log"))
            if entries != seen:
                seen = entries
                return bool(self.published() - before)
            return not self.driver.running

        return until(more, self.apart.limit_s, every=1.0) and (self.driver.running or not self.driver.process.poll())

    def ends(self, driver: Program, status: int = 0) -> str:
        """What is wrong with a driver that ends now (empty: nothing)."""
        found = driver.end(self.apart.limit_s)
        return "" if found == status else f"status {found} after {driver.seconds:.0f} s: {driver.told()[-800:]!r}"

    def wrong_so_far(self) -> list[str]:
        """What is published now and is not of the run of one process, or of which there is no object."""
        while True:
            state = self.state()
            objects = bucket.sizes(self.log.root / "objects")
            if self.state().next == state.next:  # else what was listed may have been removed since
                break
        files, expected = state.files, self.apart.expected
        wrong = [f"{name} differs" for name, sha in expected.items() if name in files and files[name].sha256 != sha]
        of = {name: str(self.log.place_of(one)).partition("/objects/")[2] for name, one in files.items()}
        return wrong + [f"{name} has no object" for name in files if of[name] not in objects]

    def wrong(self) -> list[str]:
        """What is wrong with a run that has ended, as it is in the bucket: what `s4al verify` says, other bytes than
        those of one process, files that are none of a finished run's."""
        try:
            with contextlib.redirect_stdout(None):
                verify_command(self.place)
            found = contents(view(self.place))
        except S4ALError as error:
            return [str(error)]
        expected = self.apart.expected
        lines = [f"{name} differs" for name in {**expected, **found} if found.get(name) != expected.get(name)]
        left = (path for path in self.state().files if ".tmp" in path or "/training/" in path or ".lock" in path)
        return [*lines, *(f"{path} is left" for path in left)]
