"""A file that comes from the bucket is what was published, or is not there."""

import pytest

from orchestrator.remote.log import RunLog, Stored
from orchestrator.remote.working_copy import WorkingCopy
from querying.base.errors import DamagedError
from querying.base.files import sha256
from querying.base.storage import bucket
from querying.base.storage.place import place


@pytest.mark.parametrize("times", [0, bucket.READINGS - 1, bucket.READINGS])
def test_a_file_whose_bits_change_on_the_way_is_fetched_so_often_in_all(store, url, tmp_path, times):
    log, original = RunLog(place(url)), tmp_path / "original"
    original.write_bytes(bytes(range(256)) * 100)
    one = Stored(0, original.stat().st_size, sha256(original))
    bucket.create(log.place_of(one), original.read_bytes())
    copy = WorkingCopy(tmp_path / "copy", log)
    store.reset(lambda method, path, number: "flip" if number <= times else None)
    if times < bucket.READINGS:
        assert copy.make_equal({"a/b": one}) == 1
        assert (copy.root / "a" / "b").read_bytes() == original.read_bytes()
    else:
        with pytest.raises(DamagedError, match=f"differs from what was published as a/b, {bucket.READINGS} times"):
            copy.make_equal({"a/b": one})
        assert not [path for path in copy.root.rglob("*") if path.is_file()]
    assert len(store.seen) == min(times + 1, bucket.READINGS)
