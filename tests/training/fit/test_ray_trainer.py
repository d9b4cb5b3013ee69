"""What several ranks do when one of them meets an error that the others do not see."""

import time
from dataclasses import replace
from pathlib import PosixPath

import pytest

from querying.base.errors import DamagedError
from tests.small import small_run


class DamagedForRankOne(PosixPath):
    """A data folder that one worker can not read."""

    def __truediv__(self, name):
        import ray.train

        if ray.train.get_context().get_world_rank() == 1:
            raise DamagedError(f"{PosixPath(self, name)}: differs from what was ingested")
        return PosixPath(self, name)


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_an_error_of_one_rank_ends_the_training_at_once_and_keeps_its_name(local_ray, toy_data, tmp_path):
    """The other rank waits for it in a collective; it must neither hang until that times out nor look like success."""
    from orchestrator.backends.ray_backend import RayBackend

    class OneRankFails(RayBackend):
        def train(self, job):
            super().train(replace(job, data=DamagedForRankOne(job.data)))

    started = time.monotonic()
    overrides = ("cycles=0", "train.workers=2", "teacher.batch_size=4", "train.max_failures=0")
    with pytest.raises(DamagedError, match=r"index\.json: differs from what was ingested"):
        small_run(toy_data.root, tmp_path, *overrides, backend=OneRankFails())
    assert time.monotonic() - started < 90  # a collective would wait for 30 minutes
    assert not (tmp_path / "cycle-000" / "checkpoint").exists()
