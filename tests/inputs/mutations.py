"""Broken copies of valid bytes: flipped, cut, spliced, with extreme numbers in them."""

import struct
import zlib

from hypothesis import strategies as st

EXTREMES = (0, 1, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1)
KINDS = ("flip", "set", "delete", "cut", "splice", "repeat", "big", "little", "long")
OPERATIONS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.floats(0, 1, exclude_max=True), st.integers(0, 2**16)), min_size=1, max_size=5
)


def mutated(data, operations):
    """`data` after the operations: (kind, place in 0..1, a number that each kind reads in its own way)."""
    out = bytearray(data)
    for kind, where, number in operations:
        place, extreme = int(where * len(out)), EXTREMES[number % len(EXTREMES)]
        if kind == "cut" or not out:
            del out[place:]
        elif kind == "flip":
            out[place] ^= 1 << number % 8
        elif kind == "set":
            out[place] = number % 256
        elif kind == "delete":
            del out[place : place + number % 64]
        elif kind in ("splice", "repeat"):
            start = number % len(data) if kind == "splice" else place
            out[place:place] = data[start : start + 40]
        else:
            out[place : place + 8] = struct.pack({"big": ">I", "little": "<I", "long": "<Q"}[kind], extreme)
    return bytes(out)


def with_right_checksums(data):
    """A PNG whose chunks pass their checksums, so that a mutation gets as far as the decoder."""
    out, place = bytearray(data[:8]), 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        body = data[place + 4 : place + 8 + length]
        out += data[place : place + 4] + body + struct.pack(">I", zlib.crc32(body))
        place += 12 + length
    return bytes(out)
