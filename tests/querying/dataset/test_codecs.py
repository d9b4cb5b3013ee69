"""Labels as PNG: the short ways give what the image library gives, byte for byte and label for label."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from querying.dataset import codecs
from querying.dataset.codecs import UNREADABLE, Unexpected, decode_label, encode_label


def by_the_library(label_HW, **more):
    out = io.BytesIO()
    Image.fromarray(label_HW).save(out, "png", **({"compress_level": 1, "compress_type": zlib.Z_RLE} | more))
    return out.getvalue()


def drawn(seed):
    rng = np.random.default_rng(seed)
    height, width = (700, 500) if seed == 0 else rng.integers(1, 70, 2)
    block, classes = (1, 256) if seed == 0 else (rng.integers(1, 8), rng.integers(1, 256))
    small = rng.integers(0, classes, (-(-height // block), -(-width // block)), dtype=np.uint8)
    return np.ascontiguousarray(small.repeat(block, axis=0).repeat(block, axis=1)[:height, :width])


def test_a_label_has_the_bytes_that_the_library_writes(monkeypatch):
    labels = [drawn(seed) for seed in range(60)]
    made = [encode_label(label_HW) for label_HW in labels]
    assert made == [by_the_library(label_HW) for label_HW in labels]
    assert len(made[0]) > 2 * codecs._ONE_PART > 2 * len(made[1])  # in several parts, and in one
    monkeypatch.setattr(Image.Image, "save", None)
    assert [encode_label(label_HW) for label_HW in labels[1:]] == made[1:]


def test_a_label_of_one_part_is_read_without_the_librarys_search(monkeypatch):
    labels = [drawn(seed) for seed in range(1, 40)]
    monkeypatch.setattr(codecs, "PngImageFile", None)
    for label_HW in labels:
        found = decode_label(memoryview(encode_label(label_HW)), label_HW.shape)
        assert np.array_equal(found, label_HW)
        assert found.flags.writeable


def with_header(data, **changes):
    fields = dict(zip("whdcmfi", struct.unpack(">II5B", data[16:29]), strict=True)) | changes
    header = struct.pack(">II5B", *fields.values())
    return data[:8] + codecs._chunk(b"IHDR", header) + data[33:]


PLAIN = encode_label(drawn(3))
ODD = {
    "another level": by_the_library(drawn(3), compress_level=9),
    "in two parts": by_the_library(drawn(0)),
    "a comment": PLAIN[:33] + codecs._chunk(b"tEXt", b"a\0b") + PLAIN[33:],
    "16 bits": by_the_library(drawn(3).astype(np.uint16)),
    "2 bits": by_the_library(np.zeros((5, 9), bool)),
    "palette": (lambda out: (Image.fromarray(drawn(3)).convert("P").save(out, "png"), out.getvalue())[1])(io.BytesIO()),
    "said to be interlaced": with_header(PLAIN, i=1),
    "a wider header": with_header(PLAIN, w=10_000),
    "a higher header": with_header(PLAIN, h=10_000),
    "a lower header": with_header(PLAIN, h=1),
    "no pixels": with_header(PLAIN, h=0),
    "many pixels": with_header(PLAIN, h=100_000, w=100_000),
    "a wrong checksum of the header": PLAIN[:29] + b"1234" + PLAIN[33:],
    "no end": PLAIN[:-12],
    "more behind it": PLAIN + b"x",
    "cut": PLAIN[: len(PLAIN) // 2],
    "packed bytes cut": PLAIN[:33] + codecs._chunk(b"IDAT", PLAIN[41:-30]) + PLAIN[-12:],
    "packed bytes altered": PLAIN[:33] + codecs._chunk(b"IDAT", b"x\x01" + b"\xff" * 9) + PLAIN[-12:],
    "nothing": b"",
    "only a beginning": PLAIN[:8],
}  # fmt: skip


@pytest.mark.parametrize("what", ODD)
def test_any_other_file_is_what_the_library_says_it_is(what):
    def outcome(read):
        try:
            return read().tolist()
        except UNREADABLE as error:
            return Unexpected if isinstance(error, Unexpected) else "unreadable"

    def library():
        with PngImageFile(io.BytesIO(ODD[what])) as image:
            codecs._check(image, "L", None)
            return np.array(image)

    assert outcome(lambda: decode_label(ODD[what])) == outcome(library)


def test_a_size_is_told_from_the_header_alone(monkeypatch):
    monkeypatch.setattr(Image, "frombytes", None)
    with pytest.raises(Unexpected, match=r"has shape .* where \(3, 4\) was expected"):
        decode_label(PLAIN, (3, 4))
    with pytest.raises(Unexpected, match="more than 64 megapixels"):
        decode_label(ODD["many pixels"])
