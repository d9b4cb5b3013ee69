import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from benchmarks.formats.rle import decode, encode

GOLDEN = [0, 0, 0, 96, 57, 27, 254, 31, 0, 183, 255, 139, 192, 35, 255]
"""Of the SDK of Label Studio, for the mask below."""


def golden_mask():
    mask_HW = np.zeros((4, 6), bool)
    mask_HW[1, 2:5] = mask_HW[3, 5] = True
    return mask_HW


def test_the_golden_mask_has_the_bytes_of_the_sdk_and_comes_back():
    assert encode(golden_mask()) == GOLDEN
    np.testing.assert_array_equal(decode(GOLDEN, 4, 6), golden_mask())
    np.testing.assert_array_equal(decode([*GOLDEN, 0], 4, 6), golden_mask())  # the SDK adds a zero at times


@settings(max_examples=200, deadline=None)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_every_mask_comes_back(mask_HW):
    rle = encode(mask_HW)
    assert set(map(type, rle)) == {int}
    np.testing.assert_array_equal(decode(rle, *mask_HW.shape), mask_HW)


def test_a_run_that_is_longer_than_its_16_bits_and_one_of_each_size_come_back():
    for side in (1, 2, 4, 60, 130, 300):
        for mask_HW in (np.zeros((side, side), bool), np.ones((side, side), bool), np.tri(side, dtype=bool)):
            np.testing.assert_array_equal(decode(encode(mask_HW), side, side), mask_HW)


def bits_of(tokens, words, word_bits=8, sizes=(3, 4, 8, 16)):
    """Bytes of tokens: (size's number, length, one word) is a run, (size's number, words) is literal."""
    text = f"{words:032b}{word_bits - 1:05b}" + "".join(f"{size - 1:04b}" for size in sizes)
    for kind, *rest in tokens:
        run = len(rest) == 2
        length, values = (rest[0], [rest[1]]) if run else (len(rest[0]), rest[0])
        text += f"{int(run)}{kind:02b}{length - 1:0{sizes[kind]}b}" + "".join(f"{value:08b}" for value in values)
    text += "0" * (-len(text) % 8)
    return [int(text[place : place + 8], 2) for place in range(0, len(text), 8)]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_what_other_writers_pack_is_read_too_literal_words_and_other_run_sizes(data):
    """A browser's strokes are anti-aliased: four equal channels of any grey; from 128 on a pixel is painted."""
    sizes = data.draw(st.sampled_from([(3, 4, 8, 16), (1, 2, 5, 9), (16, 16, 16, 16)]))
    greys = np.array(
        data.draw(st.lists(st.integers(0, 255), min_size=6, max_size=24).filter(lambda g: len(g) % 6 == 0))
    )
    words, tokens, at = np.repeat(greys, 4).tolist(), [], 0
    while at < len(words):
        kind = data.draw(st.integers(0, 3))
        most = min(1 << sizes[kind], len(words) - at)
        run = 1
        while run < most and words[at + run] == words[at]:
            run += 1
        if data.draw(st.booleans()):
            tokens.append((kind, run, words[at]))
            at += run
        else:
            length = data.draw(st.integers(1, most))
            tokens.append((kind, words[at : at + length]))
            at += length
    rle = bits_of(tokens, len(words), sizes=sizes)
    np.testing.assert_array_equal(decode(rle, len(greys) // 6, 6), greys.reshape(-1, 6) >= 128)


HOSTILE = {
    "count 2^32-1": ([255, 255, 255, 255, *GOLDEN[4:]], "count is 4294967295, where 96"),
    "count too small": ([0, 0, 0, 92, *GOLDEN[4:]], "count is 92, where 96"),
    "ends early": (GOLDEN[:-2], "ends early, after 44 of 96"),
    "ends in the head": (GOLDEN[:6], "ends within its head"),
    "empty": ([], "ends within its head"),
    "run past the end": (bits_of([(2, 90, 0), (2, 7, 255)], 96), "run of 7 words at word 90 goes beyond"),
    "literal past the end": (bits_of([(2, 90, 0), (2, [0] * 7)], 96), "goes beyond"),
    "16 bit words": (bits_of([(2, 96, 0)], 96, word_bits=16), "words have 16 bits"),
    "number 256": ([*GOLDEN[:-1], 256], "outside 0 to 255"),
    "number -1": ([*GOLDEN[:-1], -1], "outside 0 to 255"),
    "floats": ([float(value) for value in GOLDEN], "something else than whole numbers"),
    "booleans": ([*GOLDEN[:-1], True], "something else than whole numbers"),
    "texts": ([str(value) for value in GOLDEN], "something else than whole numbers"),
    "nested": ([GOLDEN], "something else than whole numbers"),
    "text": ("AAAA", "no list of bytes"),
    "mapping": ({"0": 0}, "no list of bytes"),
    "nothing": (None, "no list of bytes"),
    "too long": ([0] * (8 * 24 + 65), "257 bytes, more than 256"),
    "more behind": ([*GOLDEN, 0, 0, 1], "3 bytes follow the last"),
    "zeros behind": ([*GOLDEN, *[0] * 9], "9 bytes follow the last"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_damaged_or_hostile_list_is_refused(name):
    rle, message = HOSTILE[name]
    with pytest.raises(ValueError, match=message):
        decode(rle, 4, 6)


def test_a_list_is_refused_before_memory_is_taken_for_its_mask():
    tracemalloc.start()
    try:
        for rle in ([255, 255, 255, 255, *GOLDEN[4:]], GOLDEN):
            with pytest.raises(ValueError, match="count"):
                decode(rle, 8192, 8192)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
