"""How kernels pass over the bytes they need not look at, 32 or 64 at a time.

LLVM makes vector code of a loop over one block if all its values are bytes, nothing in it branches, and it indexes with
unsigned integers (numba wraps negative ones, which takes a branch): then it runs eight times as fast. So a search
computes 0 or 1 for every byte of a block and keeps the `sooner` position.
"""

import numpy as np
from numba import njit


@njit(inline="always")
def sooner(first, position, found):
    """The smaller of `first` and `position` where `found` is 1, else `first`; all are bytes."""
    candidate = np.uint8(np.uint8(position) | np.uint8(found - np.uint8(1)))
    return candidate if candidate < first else first


@njit(cache=True, nogil=True)
def next_non_ascii(data, at, stop):
    """The first position from `at` on that holds a byte over 0x7F; `stop` if there is none."""
    while at + 64 <= stop:
        seen = np.uint8(0)
        for ahead in range(np.uint64(64)):
            seen |= data[np.uint64(at) + ahead]
        if seen >= 0x80:
            break
        at += 64
    while at < stop and data[at] < 0x80:
        at += 1
    return at


@njit(inline="always")
def copy_bytes(data, start, stop, out, put):
    """Append data[start:stop] to `out`, which is written up to `put`: the new end."""
    out[put : put + stop - start] = data[start:stop]
    return put + stop - start
