"""Data and run in a bucket, on hosts that share nothing else: the run of one process, byte for byte."""

import pytest

from benchmarks.cli import app
from orchestrator.remote.checkout import view
from tests.faults.apart import Apart
from tests.faults.processes import TRAIN_WORKER, kill, until
from tests.hosts import needs_namespaces, seen_by
from tests.store import environment
from tests.whole.test_end_to_end import assert_same

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]
CONFIG = ["train.epochs=12", "train.steps_per_epoch=4", "query.scales=[1,2,2,2]", "query.batch_size=1"]
STATES = "cycle-000/training/states/step-"


@pytest.fixture
def apart(moto_port, tmp_path, monkeypatch):
    needs_namespaces()
    for name, value in environment("", "").items():
        monkeypatch.setenv(name, value)  # the harness sets its own, which are gone afterwards
    made = Apart(tmp_path, moto_port, CONFIG)
    yield made
    made.close()


def test_a_run_whose_driver_dies_in_training_goes_on_with_an_empty_cache_and_gives_the_bytes_of_one_process(
    apart, capsys
):
    apart.prepare()
    with apart.run() as run:
        run.start()
        assert until(lambda: any(path.startswith(STATES) for path in run.state().files), 600, every=0.5)
        assert apart.working(TRAIN_WORKER), "at work elsewhere"
        kill(run.driver.process.pid)
        run.driver.process.wait()
        assert not any("cycle-000/checkpoint" in path for path in run.state().files)
        run.start()
        assert run.ends(run.driver) == ""
        assert run.wrong() == []
        assert_same(view(run.place), apart.scratch / "one")
        capsys.readouterr()
        app.app(args=["verify", str(run.place)], standalone_mode=False)
        assert f"{run.place}: intact" in capsys.readouterr().out
        for node in apart.nodes:
            hidden = seen_by(node, apart.hosts.hidden)
            assert not [path for path in hidden.rglob("*") if path.name in (run.name, "recipe.yaml", "summary.json")]
