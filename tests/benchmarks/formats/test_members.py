import io
import os
import stat
import struct
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks.formats.members import Members, _regular, files_below, write
from querying.base.errors import UserError


def archive(path, *members, **more):
    with zipfile.ZipFile(path, "w", **more) as file:
        for name, data in members:
            file.writestr(name, data)
    return path


def info(name, mode=0o644 | stat.S_IFREG, **more):
    one = zipfile.ZipInfo(name)
    one.create_system, one.external_attr = 3, mode << 16
    for key, value in more.items():
        setattr(one, key, value)
    return one


def patched(path, before, after, count=-1):
    data = path.read_bytes()
    assert before in data
    path.write_bytes(data.replace(before, after, count))
    return path


def encrypted(path):
    data = bytearray(archive(path, ("a.txt", b"abc")).read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    return path


def overlapping(path):
    """Two names for the same bytes."""
    data = bytearray(archive(path, ("aa.txt", b"x" * 50), ("bb.txt", b"x" * 50)).read_bytes())
    second = data.rindex(b"PK\1\2")
    data[second + 42 : second + 46] = struct.pack("<I", 0)
    path.write_bytes(data)
    return path


def many(path):
    """10^5 members, as an archive of that many says at its end."""
    archive(path, ("a", b""))
    data = bytearray(path.read_bytes())
    end = data.index(b"PK\5\6")
    data[end + 8 : end + 12] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    return path


def many_64(path):
    archive(path, ("a", b""))
    data = path.read_bytes()
    end = data.index(b"PK\5\6")
    path.write_bytes(data[:end] + b"PK\6\7" + struct.pack("<IQI", 0, end, 1) + data[end:])
    return path


DIRECTORY = {
    "..": (lambda p: archive(p, ("masks/../../x", b"")), "its name leads out"),
    "absolute": (lambda p: archive(p, ("/etc/x", b"")), "its name is no path below"),
    "backslash": (lambda p: archive(p, ("masks\\x", b"")), "its name is no path below"),
    "drive": (lambda p: archive(p, ("C:x", b"")), "its name is no path below"),
    "empty part": (lambda p: archive(p, ("a//b", b"")), "its name leads out"),
    "control character": (lambda p: archive(p, ("a\x1b[2Jb", b"")), "characters that no file name has"),
    "nul": (lambda p: patched(archive(p, ("aQb", b"")), b"aQb", b"a\0b"), "characters that no file name has"),
    "link": (lambda p: archive(p, (info("a", stat.S_IFLNK | 0o777), b"/etc/passwd")), "it is a link"),
    "pipe": (lambda p: archive(p, (info("a", stat.S_IFIFO | 0o644), b"")), "it is a link, or another thing"),
    "case twice": (lambda p: archive(p, ("a.png", b""), ("A.png", b"")), "'a.png' and 'A.png': is there twice"),
    "encrypted": (encrypted, "it is encrypted"),
    "bzip2": (lambda p: archive(p, ("a", b"x"), compression=zipfile.ZIP_BZIP2), "packed by method 12"),
    "1000:1": (lambda p: archive(p, ("a", bytes(40 << 20)), compression=zipfile.ZIP_DEFLATED), "made to fill memory"),
    "overlap": (overlapping, "its bytes are also those of 'aa.txt'"),
    "10^5 members": (many, "more than 65000 members"),
    "zip64": (many_64, "more than 65000 members"),
    "truncated": (lambda p: (archive(p, ("a", b"x" * 99)), os.truncate(p, 60))[0], "truncated, or no zip archive"),
    "no end": (lambda p: (p.write_bytes(b"PK\3\4" + bytes(99)), p)[1], "truncated, or no zip archive"),
    "end alone": (lambda p: (p.write_bytes(b"PK\5\6" + b"\1" * 18), p)[1], "truncated, or no zip archive"),
}


@pytest.mark.parametrize("name", DIRECTORY)
def test_an_archive_is_refused_from_its_directory_by_name_of_the_member(tmp_path, name):
    make, message = DIRECTORY[name]
    path = make(tmp_path / "x.zip")
    with pytest.raises(UserError, match=message) as raised:
        Members(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_is_there_twice_is_refused(tmp_path):
    path = archive(tmp_path / "x.zip", ("a", b"1"), ("a", b"2"))
    with pytest.raises(UserError, match="member 'a': is there twice"):
        Members(path)


def test_a_file_of_more_than_2_gb_is_refused_unread(tmp_path):
    path = archive(tmp_path / "x.zip", ("a", b"1"))
    os.truncate(path, (2 << 30) + 1)
    with pytest.raises(UserError, match=r"2\.0 GB, more than 2"):
        Members(path)


def test_a_flipped_byte_and_a_size_that_is_not_true_are_refused_when_the_member_is_read(tmp_path):
    path = patched(archive(tmp_path / "x.zip", ("a", b"hello")), b"hello", b"hellp")
    with pytest.raises(UserError, match=r"x\.zip/a: damaged .*CRC"):
        Members(path).read("a", 100)
    for place in range(60):  # of a packed member, every bit of its head and body
        packed = archive(tmp_path / "y.zip", ("a", os.urandom(20) * 3), compression=zipfile.ZIP_DEFLATED)
        data = bytearray(packed.read_bytes())
        whole = Members(packed).read("a", 100)
        data[place] ^= 0x41
        packed.write_bytes(data)
        with suppress(UserError):
            assert Members(packed).read("a", 100) == whole  # a date, or a flag that nobody reads


def test_what_is_read_is_bounded_whatever_the_directory_says(tmp_path):
    members = Members(archive(tmp_path / "x.zip", ("a", b"x" * 101)))
    with pytest.raises(UserError, match=r"x\.zip/a: more than 100 bytes"):
        members.read("a", 100)
    assert members.read("a", 101) == b"x" * 101


def test_what_systems_leave_is_counted_and_folders_are_no_files(tmp_path):
    members = Members(archive(tmp_path / "x.zip", ("masks/", b""), ("masks/a", b"1"), ("__MACOSX/._a", b""),
                              ("masks/.DS_Store", b"")))  # fmt: skip
    assert members.names == ["masks/a"]
    assert members.leavings == 2


def test_what_is_written_is_always_the_same_and_can_be_read(tmp_path):
    content = [("b/ü.png", b"1"), ("a.txt", b"22")]
    for name in ("x.zip", "y.zip"):
        write(tmp_path / name, iter(content))
    assert (tmp_path / "x.zip").read_bytes() == (tmp_path / "y.zip").read_bytes()
    members = Members(tmp_path / "x.zip")
    assert [(name, members.read(name, 9)) for name in members.names] == sorted(content)


FILES = {
    "link": (lambda p: p.symlink_to("/etc/hostname"), "is a link to /etc/hostname"),
    "pipe": (os.mkfifo, "is no regular file"),
    "large": (lambda p: p.write_bytes(bytes(101)), "101 bytes, too many"),
}


@pytest.mark.parametrize("name", FILES)
def test_of_a_folder_nothing_but_its_own_files_is_read(tmp_path, name):
    make, message = FILES[name]
    (tmp_path / "masks").mkdir()
    make(tmp_path / "masks" / "a.png")
    with pytest.raises(UserError, match=rf"masks/a\.png: {message}"):
        list(files_below(tmp_path, "masks", 100))


def test_a_folder_that_is_a_link_is_refused_and_a_file_that_can_not_be_opened_is_named(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "masks").symlink_to("real")
    with pytest.raises(UserError, match="masks: is a link to real"):
        list(files_below(tmp_path, "masks", 100))
    (tmp_path / "real" / "a.png").write_bytes(b"x")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("benchmarks.formats.members._regular", refuse)
    with pytest.raises(UserError, match=r"real/a\.png: can not be read: Permission denied"):
        list(files_below(tmp_path, "real", 100))


def test_a_file_that_has_become_a_link_since_it_was_looked_at_is_not_followed(tmp_path):
    (tmp_path / "real").write_bytes(b"x")
    (tmp_path / "link").symlink_to("real")
    assert _regular(tmp_path / "real", 10) == b"x"
    with pytest.raises(OSError, match="symbolic links"):
        _regular(tmp_path / "link", 10)


def test_an_archive_in_a_deflate_stream_that_never_ends_is_bounded(tmp_path):
    """The directory says 3 bytes; the stream has 64 MB."""
    body = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = body.compress(bytes(64 << 20)) + body.flush()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a", bytes(64 << 20))
    data = bytearray(out.getvalue())
    for place in (data.index(b"PK\3\4") + 22, data.index(b"PK\1\2") + 24):
        data[place : place + 4] = struct.pack("<I", 3)
    assert packed
    path = Path(tmp_path / "x.zip")
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"x\.zip/a: damaged"):
        Members(path).read("a", 100)
