"""Files that are small on the disk and large in memory, and masks in every encoding that PNG has."""

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.datasets.files.images import check_image, read_mask, read_rgb
from querying.base.errors import UserError
from tests.benchmarks.datasets.test_images import IDS_HW, png

ROOT = Path(__file__).parents[2]


def zeros(count):
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(count >> 20)) + packer.flush()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bombs():
    """Name -> bytes.  All of them are complete: there are as many pixels as the header says."""
    head = b"\x89PNG\r\n\x1a\n"
    for side in (20_000, 12_247):  # 400 and 150 megapixels; for the second the library only warns
        header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
        pixels = zeros(side * (side // 8 + 2) + 2**20)
        yield f"{side}.png", head + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    small = struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0)
    whole = chunk(b"IDAT", zlib.compress(bytes(16 * 49))) + chunk(b"IEND", b"")
    inflated = zeros(256 << 20)
    for name, kind, body in (
        ("ztxt", b"zTXt", b"key\0\0" + inflated),
        ("itxt", b"iTXt", b"key\0\1\0en\0key\0" + inflated),
        ("icc", b"iCCP", b"profile\0\0" + inflated),
    ):
        yield f"{name}.png", head + chunk(b"IHDR", small) + chunk(kind, body) + whole
    frame = struct.pack(">HBHHB", 11, 8, 65_500, 65_500, 1) + b"\1\x11\0"
    yield "65500.jpg", b"\xff\xd8\xff\xc0" + frame + b"\xff\xda" + bytes(64)


MEASURE = """
import resource, sys, time
from pathlib import Path
from benchmarks.datasets.files.images import check_image, read_mask, read_rgb
from querying.base.errors import UserError
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
for read in (check_image, read_rgb, read_mask):
    try:
        read(Path(sys.argv[1]))
    except UserError:
        pass
for path in map(Path, sys.argv[2:]):
    before, started, said = peak(), time.process_time(), []
    for read in (check_image, read_rgb, read_mask):
        try:
            read(path)
        except UserError as error:
            said.append(str(error))
    print(path.name, round(peak() - before, 1), round(time.process_time() - started, 3), *said, sep="\\t")
"""


def test_a_bomb_takes_neither_memory_nor_time(tmp_path):
    """RSS grows by less than 50 MB (the bar of the design) and a second (ten times its bar, on a shared machine)."""
    paths = []
    for name, data in bombs():
        (tmp_path / name).write_bytes(data)
        assert len(data) < 2 << 20
        paths.append(tmp_path / name)
    (tmp_path / "warm.png").write_bytes(png(3, 2, 8, 0, b"\0\1\2\3" * 2))
    command = [sys.executable, "-c", MEASURE, tmp_path / "warm.png", *paths]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == [path.name for path in paths]
    for name, megabytes, seconds, *said in lines:
        print(f"{name}: {megabytes} MB, {seconds} s")
        assert float(megabytes) < 50, name
        assert float(seconds) < 1, name
        assert all(name in line for line in said)
        assert len(said) == 3 or name in ("itxt.png", "ztxt.png", "icc.png")


def test_a_png_without_pixels_is_refused_by_name(tmp_path):
    header = struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0)
    (tmp_path / "bare.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b""))
    for read in (check_image, read_rgb):
        with pytest.raises(UserError, match=r"bare\.png: damaged"):
            read(tmp_path / "bare.png")


def interlaced():
    """The 3 x 2 ids in the seven passes of Adam7, of which only four have pixels here."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 3, 2, 8, 0, 0, 0, 1)
    rows = b"\0\0" + b"\0\2" + b"\0\1" + b"\0" + IDS_HW[1].tobytes()
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(part[:4], part[4:]) for part in (header, b"IDAT" + zlib.compress(rows), b"IEND")
    )


ROWS = b"".join(b"\0" + row.tobytes() for row in IDS_HW)
MORE_ENCODINGS = {
    "interlaced": interlaced(),
    "grey with one transparent value": png(3, 2, 8, 0, ROWS, b"tRNS\0\1"),
    "palette with transparency": png(3, 2, 8, 3, ROWS, b"PLTE" + bytes(12), b"tRNS\0\xff\x80"),
    "gamma, background and resolution": png(
        3, 2, 8, 0, ROWS, b"gAMA" + struct.pack(">I", 45455), b"bKGD\0\1", b"pHYs" + struct.pack(">IIB", 9, 9, 1)
    ),
}


@pytest.mark.parametrize("kind", MORE_ENCODINGS)
def test_a_mask_in_a_less_common_encoding_gives_the_ids_that_were_written(tmp_path, kind):
    (tmp_path / "mask.png").write_bytes(MORE_ENCODINGS[kind])
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), IDS_HW)


def test_an_animation_is_its_first_picture(tmp_path):
    Image.fromarray(IDS_HW).save(tmp_path / "m.png", save_all=True, append_images=[Image.fromarray(3 - IDS_HW)])
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), IDS_HW)
