"""Building blocks of kernels that search and copy bytes, 32 or 64 at a time.

A search computes 0 or 1 for every byte of a block and reduces the block to its first match. LLVM vectorises such a loop
if all values are bytes, the loop has no branch, and indexes are unsigned (numba adds a branch to wrap negative ones).
The vectorised loop is eight times as fast.
"""

import numpy as np

from pipelines.text.instructions import copy
from pipelines.text.kernel import inner_kernel


@inner_kernel
def first_match(first, position, found):
    """The smaller of `first` and `position` if `found` is 1, else `first`; uint8 each, `found` 0 or 1."""
    candidate = np.uint8(np.uint8(position) | np.uint8(found - np.uint8(1)))
    return candidate if candidate < first else first


@inner_kernel
def next_non_ascii(data, at, stop):
    """Position of the first byte over 0x7F in data[at:stop]; `stop` if there is none."""
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


@inner_kernel
def copy_bytes(data, start, stop, out, put):
    """Copy data[start:stop] to `out` at `put`; returns the end of the copy in `out`."""
    copy(data, start, stop, out, put)
    return put + stop - start
