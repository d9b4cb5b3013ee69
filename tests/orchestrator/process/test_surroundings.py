"""Where a command is started: what is missing there is done without, or named with the remedy."""

import errno
import os

import pytest

from orchestrator.backends import local_cluster
from orchestrator.folder import layout, lock_file
from orchestrator.folder.layout import locked
from orchestrator.process import surroundings
from querying.base import files
from querying.base.errors import UserError
from querying.base.files import write_json


@pytest.fixture
def bare(monkeypatch):
    """No variable that says where anything goes."""
    for name in ("RAY_TMPDIR", "TMPDIR", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_a_folder_whose_sockets_would_have_too_long_names_is_said_and_not_taken(bare, tmp_path):
    deep = tmp_path / ("x" * 80)
    deep.mkdir()
    for value, why in ((deep, "Ray's sockets leave room for 39"), (tmp_path / "none", "is no folder")):
        bare.setenv("TMPDIR", str(value))
        folder, said = surroundings.temporary_folder()
        assert str(folder) == "/tmp"
        assert said.startswith(f"TMPDIR={value}: ")
        assert why in said
    bare.setenv("RAY_TMPDIR", "/tmp")
    assert surroundings.temporary_folder()[0].as_posix() == "/tmp"


def test_where_no_folder_is_left_the_variable_and_the_remedy_are_named(bare):
    bare.setenv("RAY_TMPDIR", "/nowhere")
    bare.setattr(surroundings, "_unfit", lambda folder: "can not be written")
    with pytest.raises(UserError, match="RAY_TMPDIR=/nowhere: can not be written; set RAY_TMPDIR to a folder"):
        surroundings.temporary_folder()


def test_without_shared_memory_ray_is_not_even_tried(bare):
    bare.setattr(local_cluster, "SHARED_MEMORY", "/nowhere/shm")
    with pytest.raises(UserError, match=r"/nowhere/shm is missing, Ray needs it: mount it .* --backend local"):
        local_cluster.prepare_local_cluster()


@pytest.mark.parametrize(("free", "taken"), [(64, 0), (85, 0), (100, 90), (1000, 900), (24000, 2000)])
def test_little_shared_memory_is_used_as_far_as_it_goes_and_said_where_it_does_not(bare, tmp_path, free, taken):
    """A container has 64 MB where nobody asks for more."""
    found = type("Found", (), {"f_bsize": 1_000_000, "f_bavail": free})
    bare.setattr(local_cluster.os, "statvfs", lambda path: found)
    bare.setenv("RAY_TMPDIR", "/tmp")
    said = local_cluster.prepare_local_cluster()
    assert local_cluster.object_store() == (taken or 500) * 1_000_000
    assert said == ("" if taken else (
        f"/dev/shm has {free} MB free, fewer than the 80 that Ray needs: its objects go to /tmp, which is slower"
        " (`docker run --shm-size=1g`, or --backend local)"
    ))  # fmt: skip
    bare.setenv("TMPDIR", "/nowhere")
    bare.delenv("RAY_TMPDIR")
    assert local_cluster.prepare_local_cluster().startswith("TMPDIR=/nowhere: is no folder: Ray's files go to /tmp")


@pytest.mark.parametrize("home", ["/dev/null", "/nowhere", None])
def test_without_a_home_the_token_is_in_the_environment_alone(bare, home):
    """As `docker run --user 12345`: no entry in passwd, so that Python knows no home."""

    def nobody(uid):
        raise KeyError(uid)

    bare.setattr("pwd.getpwuid", nobody)
    bare.setattr(os, "environ", {k: v for k, v in os.environ.items() if k not in ("HOME", "USER", "LOGNAME")})
    if home:
        os.environ["HOME"] = home
    surroundings.name_the_nameless()
    assert os.path.expanduser("~") == (home or "/dev/null")  # never a folder called ~
    assert os.environ["USER"] == f"uid-{os.getuid()}"
    local_cluster.make_private_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


def without_locks(monkeypatch, number):
    def refused(file, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock_file.fcntl, "flock", refused)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_a_run_goes_on_and_says_what_is_not_promised(tmp_path, monkeypatch, caplog, number):
    without_locks(monkeypatch, number)
    with locked(tmp_path / "run"):
        assert "this file system has no locks" in caplog.text
        held = (tmp_path / "run" / "run.lock").read_text()
        assert held.startswith(f"pid {os.getpid()} on ")
    with locked(tmp_path / "run"):  # let go
        pass
    for other in (held.replace(str(os.getpid()), "1"), "pid 7 on another-machine\n"):
        (tmp_path / "run" / "run.lock").write_text(other)
        with (
            pytest.raises(UserError, match=r"another process works on this run \(pid .*remove .*run\.lock"),
            locked(tmp_path / "run"),
        ):
            pass
    (tmp_path / "run" / "run.lock").write_text(held.replace(str(os.getpid()), "4194305"))  # killed
    with locked(tmp_path / "run"):
        pass


def test_a_lock_that_fails_otherwise_is_an_error(tmp_path, monkeypatch):
    without_locks(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output"), locked(tmp_path / "run"):
        pass
    assert layout.LOCK == "run.lock"


def folders_without(monkeypatch, number):
    true = os.fsync

    def fsync(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(number, os.strerror(number))
        true(descriptor)

    monkeypatch.setattr(files.os, "fsync", fsync)
    monkeypatch.setattr(files, "_said", [])


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_folders_that_can_not_be_flushed_cost_a_promise_and_say_so_once(tmp_path, monkeypatch, caplog, number):
    folders_without(monkeypatch, number)
    write_json(tmp_path / "a" / "x.json", {"a": 1})
    write_json(tmp_path / "y.json", {"a": 1})
    assert caplog.text.count("does not flush folders") == 1


def test_a_disk_that_fails_is_an_error_also_for_a_folder(tmp_path, monkeypatch):
    folders_without(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match=r"Input/output error.*x\.json"):
        write_json(tmp_path / "x.json", {"a": 1})
