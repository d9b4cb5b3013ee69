"""The run lengths of Label Studio's brush (thi.ng's rle-pack over RGBA, of which the fourth channel is the mask).

Bits, the highest first: 32 of the count of words, 5 of the word's size - 1, four times 4 of a run's size - 1; then
tokens of 1 bit (is it a run?), 2 bits (which of the four sizes), the length - 1, and one word (a run) or as many as the
length says.  A browser writes four equal channels, anti-aliased: a pixel is painted from 128 on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Bool = npt.NDArray[np.bool_]
PAINTED = 128
_WORD, _SIZES = 8, (3, 4, 8, 16)
_HEADER = 32 + 5 + 4 * 4
_PADDING = 8
"""Zero bytes that may follow the last token: a writer was seen to add one."""


def encode(mask_HW: Bool) -> list[int]:
    """Bytes of a mask whose painted pixels are 255 in all four channels."""
    flat = mask_HW.ravel()
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    counts = 4 * np.diff(np.append(starts, flat.size))
    words = np.where(flat[starts], 255, 0)
    parts = -(-counts // (1 << _SIZES[-1]))  # a longer run is several
    words = np.repeat(words, parts)
    lengths = np.full(parts.sum(), 1 << _SIZES[-1])
    last = np.cumsum(parts) - 1
    lengths[last] = counts - (parts - 1) * (1 << _SIZES[-1])
    kinds = np.searchsorted([1 << size for size in _SIZES], lengths)
    sizes = np.array(_SIZES)[kinds]
    tokens = ((((4 | kinds) << sizes) | (lengths - 1)) << _WORD) | words
    header = (4 * flat.size << (_HEADER - 32)) | ((_WORD - 1) << 16)
    for place, size in enumerate(_SIZES):
        header |= (size - 1) << (4 * (3 - place))
    head = np.array([int(bit) for bit in f"{header:0{_HEADER}b}"], np.uint8)
    return np.packbits(np.concatenate((head, _bits(tokens, 3 + sizes + _WORD)))).tolist()


def _bits(values: npt.NDArray[np.int64], widths: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Each value's bits, as many as its width says, one after the other."""
    ends = np.cumsum(widths)
    shift = np.repeat(ends, widths) - 1 - np.arange(ends[-1])
    return ((np.repeat(values, widths) >> shift) & 1).astype(np.uint8)


def decode(rle: Any, height: int, width: int) -> Bool:
    """Painted pixels (H, W) of what somebody sent as run lengths; ValueError says what is wrong with it.

    Nothing is allocated before the list's kind, its length, and the counts in its head are what they must be.
    """
    data, words = _checked(rle, height, width), 4 * height * width
    head = int.from_bytes(data[:7], "big") >> (56 - _HEADER)
    count, word = head >> 21, ((head >> 16) & 31) + 1
    sizes = [((head >> shift) & 15) + 1 for shift in (12, 8, 4, 0)]
    if count != words:
        raise ValueError(f"its count is {count}, where {words} (4 for each of {width} x {height} pixels) was expected")
    if word != _WORD:
        raise ValueError(f"its words have {word} bits, where {_WORD} were expected")
    out = _words(data, words, sizes)
    return out[3::4].reshape(height, width) >= PAINTED


def _checked(rle: Any, height: int, width: int) -> bytes:
    if not isinstance(rle, list):
        raise ValueError("it is no list of bytes")
    most = 8 * height * width + 64
    if len(rle) > most:
        raise ValueError(f"it has {len(rle)} bytes, more than {most} for {width} x {height} pixels")
    if set(map(type, rle)) - {int}:
        raise ValueError("it holds something else than whole numbers")
    try:
        data = bytes(rle)
    except ValueError:
        raise ValueError("it holds numbers outside 0 to 255") from None
    if len(data) * 8 < _HEADER:
        raise ValueError("it ends within its head")
    return data


def _words(data: bytes, words: int, sizes: list[int]) -> npt.NDArray[np.uint8]:
    """The words of all tokens; ValueError where they end early, or go on beyond the last."""
    out, at, end = np.zeros(words, np.uint8), 0, 8 * len(data)
    bits, place = data + bytes(8), _HEADER
    while at < words:
        token = int.from_bytes(bits[place >> 3 : (place >> 3) + 5], "big") << (place & 7)
        size = sizes[(token >> 37) & 3]
        length = ((token >> (37 - size)) & ((1 << size) - 1)) + 1
        run = (token >> 39) & 1
        place += 3 + size
        used = _WORD if run else length * _WORD
        if place + used > end:
            raise ValueError(f"it ends early, after {at} of {words} words")
        if at + length > words:
            raise ValueError(f"a run of {length} words at word {at} goes beyond the last of {words}")
        if run:
            out[at : at + length] = (token >> (37 - size - _WORD)) & 255
        else:
            first, shift = place >> 3, place & 7
            pair = np.frombuffer(bits, np.uint8, length + 1, first).astype(np.uint16)
            out[at : at + length] = (((pair[:-1] << 8) | pair[1:]) >> (8 - shift)) & 255
        at += length
        place += used
    rest = data[-(-place // 8) :]
    if len(rest) > _PADDING or any(rest):
        raise ValueError(f"{len(rest)} bytes follow the last of its words")
    return out
