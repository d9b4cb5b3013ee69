"""A run folder that a worker does not see: what it reads arrives, what it writes appears whole, and nothing else."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PosixPath

import pytest

from querying.base.errors import InfrastructureError, UserError
from querying.base.files import remove_folder
from querying.base.relay import mirror as mirror_module, served as served_module
from querying.base.relay.mirror import NAME, Mirror, mirror_of
from querying.base.relay.places import Mark, Places
from querying.base.relay.served import Served


@pytest.fixture
def places(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoint").mkdir(parents=True)
    (run / "scores").mkdir()
    (run / "other").mkdir()
    return Places(run, (run / "checkpoint",), (run / "scores",))


@pytest.fixture
def served(places):
    return Served(places, marked(places))


def marked(places):
    mark = Mark(places.root / "mark", "a text")
    mark.path.write_text(mark.text)
    return mark


def mirror_at(far, places, folder):
    made = Mirror(far, places, folder)
    for room in made.rooms.values():
        room.parent.mkdir(parents=True)
    made.here(places.writes[0]).mkdir()
    return made


@pytest.fixture
def mirror(served, places, tmp_path, monkeypatch):
    """Ten bytes a part."""
    monkeypatch.setattr(mirror_module, "PART", 10)
    monkeypatch.setattr(served_module, "PART", 10)
    return mirror_at(served, places, tmp_path / "mirror")


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


FILES = {"empty": b"", "short": b"123", "one-part": b"0123456789", "parts": bytes(range(35)), "sub/deep": b"x" * 20}


def test_what_is_read_arrives_byte_for_byte(mirror, places):
    checkpoint = places.reads[0]
    (checkpoint / "sub").mkdir()
    for name, data in {**FILES, ".tmp-1-half": b"half", "regions-1": b"not wanted"}.items():
        (checkpoint / name).write_bytes(data)
    mirror.pull(checkpoint, ("regions-*",))
    assert contents(mirror.here(checkpoint)) == FILES
    mirror.pull(checkpoint / "nothing")
    assert not mirror.here(checkpoint / "nothing").exists()


def test_a_file_is_a_place_too(served, places, tmp_path):
    weights = places.root / "weights.safetensors"
    weights.write_bytes(b"first")
    alone = replace(places, reads=(weights,))
    mirror = mirror_at(Served(alone, marked(alone)), alone, tmp_path / "mirror")
    mirror.pull(weights)
    assert mirror.here(weights).read_bytes() == b"first"
    assert mirror.here(weights).name == weights.name


def test_what_is_written_appears_once_in_the_order_of_writing(mirror, places, monkeypatch):
    scores, order = places.writes[0], []
    here = mirror.here(scores)
    (here / "sub").mkdir()
    for number, (name, data) in enumerate(reversed(FILES.items())):
        (here / name).write_bytes(data)
        os.utime(here / name, ns=(number, number))
    (here / ".tmp-7-half").write_bytes(b"half")
    move = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: order.append(Path(b).name) or move(a, b))
    mirror.push(scores, flush=True)
    assert contents(scores) == FILES
    assert order == [Path(name).name for name in reversed(FILES)]
    order.clear()
    mirror.push(scores, flush=True)
    assert order == []
    (here / "short").write_bytes(b"4567")
    mirror.push(scores, flush=True, only=("short", "empty", "missing"))
    assert order == ["short"]
    assert (scores / "short").read_bytes() == b"4567"
    mirror.clear(scores)
    assert list(contents(here)) == [".tmp-7-half"]
    assert len(contents(scores)) == len(FILES)


class Watched:
    """Looks at the folder after each call."""

    def __init__(self, far, look):
        self.far, self.look = far, look

    def __getattr__(self, name):
        def call(*args, **keys):
            found = getattr(self.far, name)(*args, **keys)
            self.look(name)
            return found

        return call


def visible(folder):
    return {name: data for name, data in contents(folder).items() if ".tmp" not in name}


@pytest.mark.parametrize("whole", [False, True])
def test_nothing_is_seen_before_all_of_it_is_there(mirror, served, places, whole):
    base = places.writes[0] / "step-1" if whole else places.writes[0]
    base.mkdir(exist_ok=True)
    (base / "model").write_bytes(b"old")
    here = mirror.here(base)
    here.mkdir(exist_ok=True)
    (here / "model").write_bytes(bytes(25))
    (here / "meta").write_bytes(b"new")
    seen = []
    mirror.far = Watched(served, lambda name: seen.append((name, visible(places.writes[0]))))
    assert mirror.push_whole(base) if whole else mirror.push(base, flush=True) is None
    before = visible(places.writes[0])
    assert [name for name, _ in seen] == ["write"] * 4 + ["publish"]
    assert all(files == {str((base / "model").relative_to(places.writes[0])): b"old"} for _, files in seen[:-1])
    assert contents(base) == {"model": bytes(25), "meta": b"new"}
    assert seen[-1][1] == before == contents(places.writes[0])


def test_a_push_that_is_cut_off_leaves_nothing_under_a_name(mirror, served, places):
    scores = places.writes[0]

    def cut(name):
        raise InfrastructureError("the network is gone")

    (mirror.here(scores) / "regions").write_bytes(bytes(25))
    mirror.far = Watched(served, cut)
    with pytest.raises(InfrastructureError):
        mirror.push(scores, flush=False)
    assert visible(scores) == {}
    assert served.files(scores) == {}, "nor is it read by another"
    mirror.far = served
    mirror.push(scores, flush=False)
    assert contents(scores) == {"regions": bytes(25)}


def test_a_folder_that_goes_while_it_is_opened_is_not_sent(mirror, places, monkeypatch):
    folder = places.writes[0] / "step-1"
    assert mirror.push_whole(folder) is False
    mirror.here(folder).mkdir()
    (mirror.here(folder) / "meta").write_bytes(b"1")
    listed = os.listdir
    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", lambda where: [*listed(where), "gone"])
        assert mirror.push_whole(folder) is False
    assert list(places.writes[0].iterdir()) == []


@pytest.mark.parametrize("again", [False, True], ids=["gone", "made anew"])
@pytest.mark.parametrize("files", range(3))
def test_a_folder_that_is_being_removed_is_not_sent(mirror, places, monkeypatch, files, again):
    """When its names are read, some of its files are gone, and perhaps there is another of its name."""
    folder = places.writes[0] / "step-1"
    here = mirror.here(folder)
    here.mkdir()
    for name in ("meta", "model"):
        (here / name).write_bytes(b"1")
    listed = os.listdir

    def listing(where):
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", lambda path: [(path / name).unlink() for name in ("meta", "model")[:files]])
            remove_folder(here)
        if again:
            here.mkdir()
            (here / "meta").write_bytes(b"2")
        return listed(where)

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", listing)
        assert mirror.push_whole(folder) is False
    assert list(places.writes[0].iterdir()) == []


def test_two_who_send_the_same_files_do_not_mix(served, places, tmp_path):
    """Each publishes all of its own after or before the other."""
    scores = places.writes[0]
    turn = threading.Barrier(2)

    def send(letter):
        mirror = mirror_at(served, places, tmp_path / letter)
        for name in ("pseudo", "regions", "shard"):
            (mirror.here(scores) / name).write_text(letter)
        mirror.far = Watched(served, lambda name: turn.wait(10) if name == "write" else None)
        mirror.push(scores, flush=False)

    threads = [threading.Thread(target=send, args=(letter,)) for letter in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contents(scores) in [dict.fromkeys(("pseudo", "regions", "shard"), letter) for letter in (b"a", b"b")]


def test_one_who_was_lost_and_comes_back_is_refused(served, places, tmp_path):
    scores = places.writes[0]
    lost, new = (mirror_at(served, places, tmp_path / name) for name in ("lost", "new"))
    served.own(scores, lost.token)
    (lost.here(scores) / "state").write_text("of the lost one")
    served.write(scores, lost.token, "state", 0, b"half", whole=False)
    served.own(scores, new.token)
    for act in (
        partial(lost.push, scores, flush=False),
        partial(served.publish, scores, lost.token, ["state"], whole=False, flush=False),
        partial(served.remove, scores / "step-1", lost.token),
        partial(lost.beat, scores / "pulse.json", 1, b"{}"),
    ):
        with pytest.raises(InfrastructureError, match="another worker has taken over"):
            act()
    assert visible(scores) == {}
    new.beat(scores / "pulse.json", 1, b"{}")
    assert visible(scores) == {"pulse.json": b"{}"}


def test_nothing_else_is_served(served, places, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("not yours")
    (places.root / "other" / "file").write_text("of no stage")
    (places.reads[0] / "link").symlink_to(secret)
    (places.writes[0] / "out").symlink_to(tmp_path)
    for path in (
        secret,
        places.root,
        places.root / "other" / "file",
        places.reads[0] / "link",
        places.reads[0] / ".." / "other" / "file",
        Path("relative"),
        places.reads[0].with_name("checkpoint2"),
    ):
        for act in (served.files, served.exists, partial(served.part, begin=0)):
            with pytest.raises(InfrastructureError, match=r"is none of the files that this stage may reach"):
                act(path)
    for base, name in (
        (places.reads[0], "model"),
        (places.writes[0], "../other/file"),
        (places.writes[0], "out/new"),
        (places.root, "recipe.yaml"),
    ):
        for act in (
            partial(served.write, begin=0, data=b"", whole=False),
            lambda base, token, name: served.remove(base / name, token),
            lambda base, token, name: served.beat(base / name, token, 1, b""),
        ):
            with pytest.raises(InfrastructureError, match=r"is none of the files"):
                act(base, "token", name)
    assert secret.read_text() == "not yours"
    assert not (tmp_path / "new").exists()


@contextmanager
def small_files(size):
    """The kernel refuses to let a file grow beyond so many bytes, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_names_the_file_and_leaves_nothing(mirror, places, monkeypatch):
    scores = places.writes[0]
    (mirror.here(scores) / "regions").write_bytes(bytes(40))
    with small_files(25), pytest.raises(OSError, match="File too large") as caught:
        mirror.push(scores, flush=False)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(scores / "regions"))
    assert list(scores.iterdir()) == []

    def full(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(served_module, "flush_below", full)
        with pytest.raises(OSError, match="No space left") as caught:
            mirror.push(scores, flush=True)
    assert caught.value.filename == str(scores)
    assert list(scores.iterdir()) == []
    mirror.push(scores, flush=True)
    assert contents(scores) == {"regions": bytes(40)}


def test_a_file_that_becomes_shorter_is_an_error(mirror, served, places):
    (places.reads[0] / "model").write_bytes(bytes(25))
    mirror.far = Watched(served, lambda name: os.truncate(places.reads[0] / "model", 5))
    with pytest.raises(InfrastructureError, match=r"checkpoint/model: was shortened while it was read"):
        mirror.pull(places.reads[0])


def test_paths_become_those_of_this_node_or_an_error(mirror, places, tmp_path):
    checkpoint, scores = places.reads[0], places.writes[0]
    assert mirror.here(checkpoint / "best" / "model") == mirror.here(checkpoint) / "best" / "model"
    assert mirror.here(scores) != mirror.here(checkpoint)
    for path in (Path("/shared/data"), Path("relative"), tmp_path, places.root):
        assert mirror.here(path) == path
    with pytest.raises(InfrastructureError, match=r"/run/other/x: lies in the run folder, which \S+ does not see"):
        mirror.here(places.root / "other" / "x")
    assert mirror.there(f"{mirror.here(checkpoint / 'meta.json')}: broken") == f"{checkpoint / 'meta.json'}: broken"


@dataclass(frozen=True, slots=True)
class Task:
    number: int
    root: PosixPath


class Own(PosixPath):
    pass


class Opaque:
    def __init__(self, path):
        self.inside = {"deep": [(path,)]}

    def __reduce__(self):
        return Opaque, (self.inside["deep"][0][0],)


def test_paths_are_translated_whatever_holds_them(places):
    from querying.base.relay.ray_relay import moved

    def here(path):
        return Path("/here") / path.relative_to("/there") if path.is_relative_to("/there") else path

    far = Path("/there/scores")
    assert moved((far, [far / "x"], {"a": far}, Task(3, far), "/there/text", 7), here) == (
        Path("/here/scores"), [Path("/here/scores/x")], {"a": Path("/here/scores")},
        Task(3, Path("/here/scores")), "/there/text", 7,
    )  # fmt: skip
    assert moved(partial(partial(str, far)), here)() == "/here/scores"
    assert moved(lambda: far, here)() == Path("/here/scores")
    assert moved(Opaque(far), here).inside["deep"][0][0] == Path("/here/scores")
    assert type(moved(Own("/there/own"), here)) is Own
    assert str(moved(Own("/there/own"), here)) == "/here/own"
    assert moved(partial(str, Path("/data")), here)() == "/data"


def test_a_mark_is_seen_only_where_it_is(tmp_path, places):
    mark = Mark(tmp_path / "mark", "a text")
    assert not mark.seen()
    mark.path.write_text("another text")  # a folder of that name, of this node's own
    assert not mark.seen()
    mark.path.write_bytes(b"\xff")
    assert not mark.seen()
    mark.path.write_text("a text")
    assert mark.seen()
    Served(places, mark).check("node-2")
    mark.path.unlink()
    with pytest.raises(UserError, match=r"/run: neither node-2 nor the Ray node of this command sees it"):
        Served(places, mark).check("node-2")


KILLED = """
import os, signal, sys
from pathlib import Path
from querying.base.relay.mirror import mirror_of
from querying.base.relay.places import Mark, Places
from querying.base.relay.served import Served
run = Path(sys.argv[1])
places = Places(run, (), (run / "scores",))
with mirror_of(Served(places, Mark(run / "mark", "a text")), places) as mirror:
    (mirror.here(run / "scores") / "large").write_bytes(bytes(1000))
    if len(sys.argv) > 2:
        os.kill(os.getpid(), signal.SIGKILL)
    print(mirror.here(run / "scores"), flush=True)
    sys.stdin.read()
"""


def test_mirrors_of_killed_processes_are_removed_and_those_of_living_ones_stay(served, places, tmp_path, monkeypatch):
    node = tmp_path / "node"
    node.mkdir()
    env = {**os.environ, "TMPDIR": str(node)}
    command = [sys.executable, "-c", KILLED, str(places.root)]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as living:
        its = Path(living.stdout.readline().strip())
        assert its.is_relative_to(node)
        assert subprocess.run([*command, "kill"], env=env).returncode == -signal.SIGKILL
        assert len(list(node.glob(f"{NAME}*"))) == 2
        monkeypatch.setattr("tempfile.tempdir", str(node))
        with mirror_of(served, places) as mirror:
            mine = mirror.here(places.writes[0])
            assert mine.is_dir()
            left = {path for path in node.glob(f"{NAME}*") if path not in mine.parents}
            assert left == {path for path in its.parents if path.name.startswith(f"{NAME}.tmp-")}
            assert (its / "large").stat().st_size == 1000
        assert not mine.exists()
        living.communicate()
    assert list(node.iterdir()) == []
