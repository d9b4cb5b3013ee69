"""Numbers for ids, so that a million of them are compared in 8 MB and not in a table of strings.

Different ids seldom have the same number, and never where it matters: whoever finds two alike compares the ids.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

_OFFSET, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)


def id_digests(ids: pa.StringArray) -> np.ndarray:
    """FNV-1a (64 bits, http://www.isthe.com/chongo/tech/comp/fnv) of the UTF-8 bytes of each of N ids, uint64 (N,)."""
    digest_N = np.full(len(ids), _OFFSET, np.uint64)
    if not len(ids):
        return digest_N
    _, offsets, data = ids.buffers()
    end_N = np.frombuffer(offsets, np.int32)[ids.offset : ids.offset + len(ids) + 1]
    byte_B = np.frombuffer(data, np.uint8) if data else np.zeros(0, np.uint8)
    start_N, length_N = end_N[:-1], np.diff(end_N)
    for place in range(int(length_N.max())):  # the ids of a data set have much the same length
        row_L = np.flatnonzero(length_N > place)
        digest_N[row_L] = (digest_N[row_L] ^ byte_B[start_N[row_L] + place]) * _PRIME
    return digest_N
