"""Parts of kernels: machine instructions that numba does not offer, searches and copies of bytes, hash tables."""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from raymill.pipelines.text.kernel import inner_kernel

LANES = 16


def _instruction(generate: Callable[..., Any]) -> Any:
    """A function for kernels. numba types an intrinsic as if calls gave the typing context, too."""
    return intrinsic(generate)


@_instruction
def load_uint64(typing_context, data, at):
    """The eight bytes of `data` from position `at` on, the first byte lowest: uint64.

    data: uint8[N], contiguous, with N >= at + 8: nothing checks it. `at` needs no alignment. For machines whose byte
    order is little-endian.
    """

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        at = context.cast(builder, arguments[1], signature.args[1], types.intp)
        pointer = builder.gep(array.data, [at])
        word = ir.IntType(64)
        return builder.load(builder.bitcast(pointer, word.as_pointer()), align=1, typ=word)

    return types.uint64(data, at), generate


@_instruction
def count_ones(typing_context, value):
    """The number of bits of a uint64 that are 1: int64."""

    def generate(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


@_instruction
def trailing_zeros(typing_context, value):
    """The number of zero bits of a uint64 below its lowest 1: int64. 64 for 0."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], cgutils.false_bit)

    return types.int64(types.uint64), generate


@_instruction
def multiply_high(typing_context, one, other):
    """The upper 64 bits of the product of two uint64: uint64."""

    def generate(context, builder, signature, arguments):
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(arguments[0], wide), builder.zext(arguments[1], wide))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), generate


@_instruction
def add_lanes(typing_context, total, at, values, start):
    """Add `LANES` numbers of `values` from `start` on to those of `total` from `at` on, all at once.

    total, values: float32, contiguous and long enough: nothing checks it. LLVM makes no vector of such a loop, because
    the arrays might be the same.
    """

    def generate(context, builder, signature, arguments):
        lanes = ir.VectorType(ir.FloatType(), LANES)

        def address(array, index):
            data = context.make_array(signature.args[array])(context, builder, arguments[array]).data
            place = context.cast(builder, arguments[index], signature.args[index], types.intp)
            return builder.bitcast(builder.gep(data, [place]), lanes.as_pointer())

        sums, added = address(0, 1), address(2, 3)
        value = builder.fadd(builder.load(sums, align=4, typ=lanes), builder.load(added, align=4, typ=lanes))
        builder.store(value, sums, align=4)
        return context.get_dummy_value()

    return types.void(total, at, values, start), generate


@_instruction
def copy(typing_context, source, start, stop, target, at):
    """Copy source[start:stop] to `target` from position `at` on. Both may be one array, and the parts may overlap.

    source, target: contiguous arrays of one kind of number, and long enough: nothing checks it.
    """

    def generate(context, builder, signature, arguments):
        def position(argument):
            return context.cast(builder, arguments[argument], signature.args[argument], types.intp)

        def address(array, place):
            data = context.make_array(signature.args[array])(context, builder, arguments[array]).data
            return builder.gep(data, [place])

        size = context.get_abi_sizeof(context.get_data_type(signature.args[0].dtype))
        first = position(1)
        count = builder.sub(position(2), first)
        cgutils.raw_memmove(builder, address(3, position(4)), address(0, first), count, size)
        return context.get_dummy_value()

    return types.void(source, start, stop, target, at), generate


# --- Searches and copies of bytes, 32 or 64 at a time.
#
# A search computes 0 or 1 for every byte of a block and reduces the block to its first match. LLVM vectorises such a
# loop if all values are bytes, the loop has no branch, and indexes are unsigned (numba adds a branch to wrap negative
# ones). The vectorised loop is eight times as fast.


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


# --- Hash tables: open addressing over numpy arrays.
#
# `find_or_insert` uses one pair of arrays for one document after the other. A slot is in use if its stamp is the
# current stamp, so a new stamp empties the table without clearing it. A document uses only the first `mask + 1` slots,
# which keeps the table of a short document in the processor's cache.
#
# `hash_slots` builds a constant table, which `find_slot` searches.


_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: Fibonacci hashing, Knuth, TAOCP 6.4
_HIGH = np.uint64(29)


def empty_table(items: int) -> tuple[np.ndarray, np.ndarray]:
    """(keys uint64[N], stamps int64[N]) for `find_or_insert`, with room for `items` items. Only stamp 0 is in use."""
    slots = slots_for(items)
    return np.empty(slots, np.uint64), np.zeros(slots, np.int64)


@inner_kernel
def slots_for(items):
    """Size of a table for `items` items: the smallest power of two, at least 16, that they fill at most by half."""
    slots = 16
    while slots < 2 * items:
        slots *= 2
    return slots


@inner_kernel
def find_or_insert(keys, stamps, mask, stamp, key):
    """(slot of `key`: int64, whether this call inserted it).

    keys: uint64[N]; stamps: int64[N]; mask: slots in use - 1, where that number is a power of two, at most N. At least
    one of these slots must be free.
    """
    slot = np.int64((key * _SPREAD) >> _HIGH) & mask
    while stamps[slot] == stamp:
        if keys[slot] == key:
            return slot, False
        slot = (slot + 1) & mask
    stamps[slot] = stamp
    keys[slot] = key
    return slot, True


def hash_slots(hashes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A constant table: (uint64[size] with each hash in its slot and 0 elsewhere; int64[N], the slot of each hash).

    hashes: uint64[N], none is 0. size: a power of two, at least twice the number of hashes.
    """
    table, slots = np.zeros(size, np.uint64), np.empty(len(hashes), np.int64)
    for number, hashed in enumerate(hashes.tolist()):
        slot = hashed & (size - 1)
        while table[slot]:
            slot = (slot + 1) & (size - 1)
        table[slot] = hashed
        slots[number] = slot
    return table, slots


@inner_kernel
def find_slot(table, hashed):
    """Slot of a hash in a table of `hash_slots`; -1 if the table does not hold it."""
    slot = np.int64(hashed & np.uint64(len(table) - 1))
    while table[slot]:
        if table[slot] == hashed:
            return slot
        slot = (slot + 1) & (len(table) - 1)
    return -1
