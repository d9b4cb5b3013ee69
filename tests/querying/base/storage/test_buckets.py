import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress

import pytest

from benchmarks.datasets.ingest import ingest
from querying.base.errors import DamagedError, InfrastructureError, UserError
from querying.base.files import sha256
from querying.base.storage import bucket, cache
from querying.base.storage.cache import copy_of
from querying.base.storage.place import Remote, place
from querying.base.storage.verbs import publish, read, total_size
from querying.dataset.shards import DataIndex, image_ids, read_images, read_truth, verify
from tests.store import BUCKET, process_environment

OPTIONS = {"size": (48, 64), "shard_size": 5, "counts": (24, 4, 6), "num_classes": 6}


@pytest.fixture
def there(url, toy_data):
    """The data set of the tests, in the bucket."""
    where = place(url)
    publish(toy_data.root, where, "index.json")
    return where


def files_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def everything(index):
    return [
        (image_id, image.tobytes(), mask.tobytes())
        for shards in index.splits.values()
        for shard in shards
        for (image_id, image), (_, mask) in zip(
            read_images(index.root, shard), read_truth(index.root, shard), strict=True
        )
    ]


def test_a_data_set_that_is_ingested_into_a_bucket_has_the_bytes_of_one_in_a_folder(url, toy_data):
    made = ingest("toy", None, place(url), **OPTIONS)
    assert str(made.root) == url
    assert made.digest == toy_data.digest
    assert (made.source, made.splits) == (toy_data.source, toy_data.splits)
    for name in files_of(toy_data.root):
        assert read(made.root / name) == (toy_data.root / name).read_bytes(), name
    assert everything(made) == everything(toy_data)
    assert not list((cache.cache_folder() / "ingest").iterdir()), "the folder that it was made in has gone"


def test_the_same_ingest_again_does_nothing_and_another_one_is_refused(url, store):
    ingest("toy", None, place(url), **OPTIONS)
    store.reset()
    ingest("toy", None, place(url), **OPTIONS)
    assert not [one for one in store.seen if one[0] == "PUT"]
    with pytest.raises(UserError, match="exists and is another data set"):
        ingest("toy", None, place(url), **{**OPTIONS, "counts": (25, 4, 6)})


def test_google_speaks_through_the_same_code(request, store, toy_data):
    where = place(f"gs://{BUCKET}/{request.node.name}")
    publish(toy_data.root, where, "index.json")
    assert everything(DataIndex.load(where)) == everything(toy_data)
    (folder,) = made_folders(toy_data.root.parent / "other", 1)
    with pytest.raises(FileExistsError):
        publish(folder, where, "index.json")


def made_folders(root, number):
    for which in range(number):
        folder = root / str(which)
        (folder / "part").mkdir(parents=True, exist_ok=True)
        for name in ("part/a", "part/b", "part/c"):
            (folder / name).write_text(f"{name} of {which}")
        (folder / "part/same").write_text("in all of them")
        (folder / "index.json").write_text(json.dumps({"of": which, "files": files_of(folder)}))
        yield folder


def test_of_several_who_publish_at_once_one_wins_and_what_is_there_is_theirs(url, tmp_path):
    folders = list(made_folders(tmp_path, 3))
    for trial in range(10):
        where, said = place(f"{url}/{trial}"), {}

        def attempt(folder, where=where, said=said):
            try:
                publish(folder, where, "index.json")
                said[folder] = ""
            except (FileExistsError, UserError) as error:
                said[folder] = str(error)

        threads = [threading.Thread(target=attempt, args=(folder,)) for folder in folders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = [folder for folder, line in said.items() if not line]
        for name in ("part/a", "part/b", "part/c", "part/same", "index.json"):
            assert read(where / name) == (winner / name).read_bytes()


def test_two_who_publish_the_same_both_succeed(url, tmp_path):
    (folder,) = made_folders(tmp_path, 1)
    for _ in range(2):
        publish(folder, place(url), "index.json")
        assert {name: read(place(url) / name) for name in files_of(folder)} == {
            name: (folder / name).read_bytes() for name in files_of(folder)
        }


def test_a_file_of_somebody_else_is_not_written_over(url, tmp_path):
    (folder,) = made_folders(tmp_path, 1)
    bucket.create(place(url) / "part/b", b"theirs")
    with pytest.raises(UserError, match=r"part/b: is there and is another file"):
        publish(folder, place(url), "index.json")
    assert read(place(url) / "part/b") == b"theirs"
    assert read(place(url) / "index.json") is None


INGEST = """
import sys
from benchmarks.datasets.ingest import ingest
from querying.base.storage.place import place
ingest("toy", None, place(sys.argv[1]), size=(48, 64), shard_size=5, counts=(24, 4, 6), num_classes=6)
"""


@pytest.mark.parametrize("where", ["publish:claimed", "publish:file@3", "publish:files", "publish:manifest"])
def test_an_upload_that_is_killed_leaves_nothing_to_read_and_the_next_one_completes_it(
    url, store, toy_data, tmp_path, where
):
    environment = process_environment(store.url, tmp_path / "cache", S4AL_FAILPOINT=f"{where}=kill")
    done = subprocess.run([sys.executable, "-c", INGEST, url], env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    if where != "publish:manifest":
        with pytest.raises(UserError, match=r"index\.json: does not exist, so .* is not a data set"):
            DataIndex.load(place(url))
    index = ingest("toy", None, place(url), **OPTIONS)
    assert everything(index) == everything(toy_data)
    assert not list((cache.cache_folder() / "ingest").iterdir()), "what the killed process has left has gone"


def test_an_upload_that_is_given_up_refuses_other_data_and_says_what_to_do(url, store, toy_data, tmp_path):
    bucket.create(place(url) / "index.json.claim", b"of something else")
    with pytest.raises(UserError, match="another data set is being published there, or was not finished: use another"):
        ingest("toy", None, place(url), **OPTIONS)


FAULTS = {
    "500 twice": lambda method, path, number: 500 if number <= 2 else None,
    "503 five times": lambda method, path, number: 503 if number <= 5 else None,
    "dropped connections": lambda method, path, number: "drop" if number % 3 == 1 else None,
    "half an answer": lambda method, path, number: "cut" if method == "GET" and number % 3 == 1 else None,
    "slow": lambda method, path, number: 0.5,
    "every second one fails": lambda method, path, number: (None, 503)[number % 2],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_passes_is_tried_again(store, there, toy_data, fault):
    store.reset(FAULTS[fault])
    assert everything(DataIndex.load(there)) == everything(toy_data)


@pytest.mark.parametrize("fault", ["500 twice", "dropped connections", "every second one fails"])
def test_so_it_is_in_an_upload(store, url, toy_data, fault):
    store.reset(FAULTS[fault])
    publish(toy_data.root, place(url), "index.json")
    store.reset()
    assert everything(DataIndex.load(place(url))) == everything(toy_data)


def test_the_answer_to_an_upload_that_is_lost_is_no_other_writer(store, url, toy_data):
    """The object is there, and the request is made again: it finds its own bytes."""
    lost = set()

    def lose_first(method, path, number):
        new = method == "PUT" and path not in lost  # it may ask first what is there
        if new:
            lost.add(path)
        return "lose" if new else None

    store.reset(lose_first)
    publish(toy_data.root, place(url), "index.json")
    assert len(lost) == len(files_of(toy_data.root)) + 1  # and the claim
    store.reset()
    assert everything(DataIndex.load(place(url))) == everything(toy_data)


def test_a_store_that_is_down_for_some_seconds_is_waited_for(store, there, toy_data):
    began = time.monotonic()
    store.reset(lambda method, path, number: "drop" if time.monotonic() < began + 5 else None)
    assert everything(DataIndex.load(there)) == everything(toy_data)
    assert time.monotonic() > began + 5


def test_a_bit_that_changes_on_the_way_is_found_and_the_object_fetched_again(store, there, toy_data):
    index = DataIndex.load(there)
    seen = set()

    def first_of_each(method, path, number):
        new = path not in seen
        seen.add(path)
        return "flip" if new else None

    store.reset(first_of_each)
    assert everything(index) == everything(toy_data)
    paths = [path for _, path in store.seen]
    assert {paths.count(path) for path in paths} == {2}


def test_bits_that_change_five_times_are_fetched_a_sixth_time(store, there, toy_data):
    index = DataIndex.load(there)
    shard = index.shards("train")[0]
    store.reset(flips_of_each(bucket.READINGS - 1, "."))
    assert list(read_images(there, shard)), "all are there"
    assert len(store.seen) == bucket.READINGS


def test_bits_that_always_change_are_refused_and_no_copy_is_kept(store, there):
    index = DataIndex.load(there)
    store.reset(lambda method, path, number: "flip")
    shard = index.shards("train")[0]
    with pytest.raises(
        DamagedError, match=f"{there}/{shard.images}: differs from what was published, {bucket.READINGS} times"
    ):
        list(read_images(there, shard))
    assert list((cache.cache_folder() / "objects").iterdir()) == []


def test_an_index_whose_bits_change_is_refused(store, there):
    store.reset(lambda method, path, number: "flip")
    with pytest.raises(DamagedError, match=r"index\.json: not what was written"):
        DataIndex.load(there)
    store.reset()
    index = DataIndex.load(there)
    store.reset(lambda method, path, number: "flip")
    with pytest.raises(DamagedError, match=r"index\.json: not what was written"):
        _ = index.digest


def test_an_index_whose_bits_change_five_times_is_read_again_and_so_is_its_digest(store, there, toy_data):
    store.reset(lambda method, path, number: "flip" if number < bucket.READINGS else None)
    index = DataIndex.load(there, shards_too=False)
    assert index.splits == toy_data.splits
    store.reset(lambda method, path, number: "flip" if number < bucket.READINGS else None)
    assert index.digest == toy_data.digest
    store.reset(lambda method, path, number: "flip" if number < bucket.READINGS else None)
    assert index.is_that(toy_data.digest)


def flips_of_each(times, only=""):
    """Of what is read at each path with `only` in it, the first so many answers have another bit."""
    asked = Counter()

    def fault(method, path, number):
        asked[path] += method == "GET" and only in path
        return "flip" if method == "GET" and only in path and asked[path] <= times else None

    return fault


@pytest.mark.parametrize("times", [bucket.READINGS - 1, bucket.READINGS])
def test_an_audit_reads_again_before_it_calls_an_object_damaged(store, there, times):
    index = DataIndex.load(there)
    store.reset(flips_of_each(times, "images/train-00001.arrow"))
    damaged = [f"{there}/images/train-00001.arrow: differs from what was ingested"]
    assert list(verify(index)) == (damaged if times == bucket.READINGS else [])


def test_an_upload_that_goes_on_reads_again_before_it_calls_what_is_there_another(store, url, toy_data):
    for name in files_of(toy_data.root)[1::2]:
        bucket.create(place(url) / name, (toy_data.root / name).read_bytes())
    bucket.create(place(url) / "index.json.claim", sha256(toy_data.root / "index.json").encode())
    store.reset(flips_of_each(bucket.READINGS - 1, "."))
    publish(toy_data.root, place(url), "index.json")
    store.reset()
    assert everything(DataIndex.load(place(url))) == everything(toy_data)


@pytest.mark.parametrize("times", [bucket.READINGS - 1, bucket.READINGS])
def test_a_bit_that_changes_in_a_listing_is_no_missing_file(there, toy_data, monkeypatch, times):
    """Where it stays XML: a name becomes another."""
    told, names = bucket.sizes(there), [shard.truth for shard in toy_data.shards("train")]

    def altered(calls):
        def sizes(folder):
            calls.append(folder)
            changed = names[-1] if len(calls) <= times else ""
            return {f"{name[:-1]}v" if name == changed else name: size for name, size in told.items()}

        return sizes

    for read_listing in (
        lambda: DataIndex.load(there).splits == toy_data.splits,
        lambda: total_size(there, names) == total_size(toy_data.root, names),
    ):
        monkeypatch.setattr(bucket, "sizes", altered([]))
        if times < bucket.READINGS:
            assert read_listing()
        else:
            with pytest.raises((UserError, DamagedError), match=f"{there}/{names[-1]}: does not exist, although"):
                read_listing()


def test_a_listing_that_can_not_be_read_is_asked_for_again(store, there, toy_data):
    store.reset(flips_of_each(2, "list-type"))
    assert DataIndex.load(there).splits == toy_data.splits
    assert len([path for _, path in store.seen if "list-type" in path]) > 1


def test_what_changed_on_its_way_up_is_never_taken_for_data(store, url, toy_data):
    """This server compares no checksum; those of Amazon and Google refuse such an upload."""
    store.reset(lambda method, path, number: "flip-up" if path.endswith("images/train-00001.arrow") else None)
    publish(toy_data.root, place(url), "index.json")
    store.reset()
    index = DataIndex.load(place(url))
    assert list(verify(index)) == [f"{url}/images/train-00001.arrow: differs from what was ingested"]
    with pytest.raises(DamagedError, match="train-00001"):
        everything(index)


def test_a_shard_that_is_missing_is_named(store, there):
    index = DataIndex.load(there)
    shard = index.shards("train")[2]
    import obstore

    obstore.delete(bucket._store(there), (there / shard.truth).key)
    with pytest.raises(UserError, match=f"{shard.truth}: does not exist, although"):
        DataIndex.load(there)
    assert list(verify(index)) == [f"{there}/{shard.truth}: does not exist"]
    with pytest.raises(DamagedError, match=f"{there}/{shard.truth}: does not exist, although the index lists it"):
        list(read_truth(there, shard))


READ = """
import sys
from querying.base.storage.place import place
from querying.dataset.shards import DataIndex, read_images, read_truth
index = DataIndex.load(place(sys.argv[1]))
for shards in index.splits.values():
    for shard in shards:
        list(read_images(index.root, shard)), list(read_truth(index.root, shard))
print("read")
"""


def test_four_processes_fetch_each_shard_once(store, there, toy_data, tmp_path):
    store.reset(lambda method, path, number: 0.2 if path.endswith(".arrow") else None)
    environment = process_environment(store.url, tmp_path / "cache")
    children = [
        subprocess.Popen([sys.executable, "-c", READ, str(there)], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert [child.communicate()[0] for child in children] == ["read\n"] * 4
    fetched = [path for method, path in store.seen if path.endswith(".arrow")]
    assert len(fetched) == len(set(fetched)) == len(list(toy_data.files())) - len(toy_data.ids)


def test_who_is_killed_while_it_fetches_leaves_nothing_in_the_way(store, there, toy_data, tmp_path):
    environment = process_environment(store.url, tmp_path / "cache", S4AL_FAILPOINT="copy:fetched@3=kill")
    done = subprocess.run([sys.executable, "-c", READ, str(there)], env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "cache" / "objects").glob("*.part"))) == 1
    assert everything(DataIndex.load(there)) == everything(toy_data)
    assert not list((tmp_path / "cache" / "objects").glob("*.part"))


def test_who_is_frozen_while_it_fetches_is_not_waited_for_for_ever(
    store, there, toy_data, tmp_path, monkeypatch, caplog
):
    first = set()

    def stuck(method, path, number):
        new = path.endswith(".arrow") and not first
        first.update({path} if new else ())
        return 60.0 if new else None

    store.reset(stuck)
    child = subprocess.Popen(
        [sys.executable, "-c", READ, str(there)], env=process_environment(store.url, tmp_path / "cache")
    )
    try:
        while not list((tmp_path / "cache").glob("objects/*.part")):
            time.sleep(0.1)
        child.send_signal(signal.SIGSTOP)
        monkeypatch.setattr(cache, "_FROZEN_S", 0.0)
        monkeypatch.setenv(bucket.PATIENCE, "2")
        assert everything(DataIndex.load(there)) == everything(toy_data)
        assert "who fetches it has written nothing for long: fetching it anew" in caplog.text
    finally:
        child.kill()
        child.wait()


def copies():
    return list((cache.cache_folder() / "objects").iterdir())


def test_a_copy_that_was_altered_is_fetched_again(there, toy_data):
    index = DataIndex.load(there)
    before = everything(index)
    for path in copies():
        damaged = bytearray(path.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        path.write_bytes(damaged)
    assert everything(index) == before == everything(toy_data)
    assert all(sha256(path) == path.name for path in copies())


def test_copies_stay_below_their_bound_and_the_oldest_goes_first(store, there, toy_data, monkeypatch, caplog):
    index = DataIndex.load(there)
    largest = max(path.stat().st_size for path in toy_data.root.rglob("*.arrow"))
    monkeypatch.setattr(cache, "_fetched", set())
    monkeypatch.setattr(cache, "_said", set())
    monkeypatch.setenv(cache.BOUND, str(3 * largest / 1e9))
    fetched, sizes = [], []
    for shard in index.shards("train"):
        list(read_images(there, shard))
        fetched.append(shard.images_sha256)
        sizes.append(sum(path.stat().st_size for path in copies()))
        assert fetched[-1] in {path.name for path in copies()}
    assert max(sizes) <= 3 * largest
    assert {path.name for path in copies()} == set(fetched[-len(copies()) :])
    assert len(copies()) < len(fetched)
    assert not caplog.records
    list(read_images(there, index.shards("train")[0]))
    assert "fetched again, since the copies of" in caplog.text


def test_a_copy_that_is_being_read_is_not_removed(there, toy_data, monkeypatch):
    index = DataIndex.load(there)
    shards = index.shards("train")
    held = copy_of(there / shards[0].images, shards[0].images_sha256)
    monkeypatch.setenv(cache.BOUND, str(2.5 * held.path.stat().st_size / 1e9))
    for shard in shards[1:]:
        image_ids(there, shard)
        assert held.path.exists()
    monkeypatch.setenv(cache.BOUND, str(1.5 * held.path.stat().st_size / 1e9))
    with pytest.raises(UserError, match=rf"does not fit beside the .* GB .*{cache.BOUND}=.* or another disk"):
        image_ids(there, shards[1])
    del held
    image_ids(there, shards[1])


def test_a_bound_holds_for_processes_that_fetch_at_once(store, there, toy_data, tmp_path):
    largest = max(path.stat().st_size for path in toy_data.root.rglob("*.arrow"))
    environment = process_environment(store.url, tmp_path / "cache", **{cache.BOUND: str(5 * largest / 1e9)})
    children = [
        subprocess.Popen([sys.executable, "-c", READ, str(there)], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    most = 0
    while any(child.poll() is None for child in children):
        folder = tmp_path / "cache" / "objects"
        with suppress(FileNotFoundError):
            most = max(most, sum(path.stat().st_size for path in folder.iterdir()))
        time.sleep(0.002)
    assert [child.communicate()[0] for child in children] == ["read\n"] * 3
    assert 0 < most <= 5 * largest


ADDRESSES = {
    "s3://": "'' is no name of a bucket",
    "s3:///x": "'' is no name of a bucket",
    "s3://a b/x": "is no name of a bucket",
    "s3://bucket/../x": "a path in a bucket has no empty part",
    "s3://bucket//x": "a path in a bucket has no empty part",
    "s3://key:hush@bucket/x": "credentials belong in the environment",
    "https://bucket/x": "data lie in a folder, or at s3://BUCKET/PATH or gs://BUCKET/PATH",
}


@pytest.mark.parametrize("text", ADDRESSES)
def test_an_address_that_is_none_is_refused(text):
    with pytest.raises(UserError) as caught:
        place(text)
    assert ADDRESSES[text] in str(caught.value)
    assert "hush" not in str(caught.value)


def test_addresses_are_shown_as_they_are_given():
    assert str(place("s3://bucket/a/b/")) == "s3://bucket/a/b"
    assert str(place("gs://bucket")) == "gs://bucket"
    assert place("s3://bucket") / "index.json" == Remote("s3", "bucket", "index.json")
    assert place(None) is None


def test_a_bucket_that_is_not_there_and_a_data_set_that_is_not(store, toy_data):
    with pytest.raises(
        UserError, match=r"s3://no-such-bucket/x.*there is no bucket 'no-such-bucket': make it, or corr"
    ):
        DataIndex.load(place("s3://no-such-bucket/x"))
    with pytest.raises(UserError, match="there is no bucket 'no-such-bucket'"):
        publish(toy_data.root, place("s3://no-such-bucket/x"), "index.json")
    with pytest.raises(UserError, match=r"s3://datasets/nothing/index\.json: does not exist, so s3://datasets/nothing"):
        DataIndex.load(place("s3://datasets/nothing"))


def test_without_rights_nothing_is_tried_again(store, there):
    store.reset(lambda method, path, number: 403)
    with pytest.raises(UserError, match=r"the store refuses it .*AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        DataIndex.load(there)
    assert len(store.seen) == 1


def test_without_credentials_it_says_which_variables(store, there, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")  # as on a machine of no cloud
    bucket._client.cache_clear()
    began = time.monotonic()
    with pytest.raises(
        UserError, match="no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or for a public"
    ):
        DataIndex.load(there)
    assert time.monotonic() < began + 30
    bucket._client.cache_clear()


def test_a_store_that_does_not_answer_is_given_up_after_its_time(there, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv(bucket.PATIENCE, "3")
    bucket._client.cache_clear()
    began = time.monotonic()
    with pytest.raises(
        InfrastructureError, match=r"the store has failed for 3 s .*AWS_ENDPOINT_URL or AWS_ENDPOINT rig"
    ):
        DataIndex.load(there)
    assert 2 < time.monotonic() - began < 20
    bucket._client.cache_clear()


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(sys.modules, "obstore.exceptions", None)
    with pytest.raises(UserError, match=r"s3://bucket/x.*pip install 's4al-plus\[s3\]'"):
        DataIndex.load(place("s3://bucket/x"))
    with pytest.raises(UserError, match=r"gs://bucket/x.*pip install 's4al-plus\[gcs\]'"):
        DataIndex.load(place("gs://bucket/x"))


@pytest.mark.parametrize(("name", "value"), [(bucket.PATIENCE, "soon"), (cache.BOUND, "0"), (cache.BOUND, "all")])
def test_a_setting_that_is_no_number_is_named(there, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"{name}={value}: a number of"):
        everything(DataIndex.load(there))


def test_a_cache_that_can_not_be_written_is_named(there, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(cache.FOLDER, str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=f"no place for copies of the data: .*{cache.FOLDER}"):
        everything(DataIndex.load(there))


def test_a_full_disk_says_where(there, monkeypatch):
    monkeypatch.setattr(cache.os, "ftruncate", lambda *_: (_ for _ in ()).throw(OSError(28, os.strerror(28))))
    with pytest.raises(OSError, match="No space left") as caught:
        everything(DataIndex.load(there))
    assert caught.value.filename == str(cache.cache_folder())
