"""Operations for kernels, one machine instruction or two each, that numba does not offer."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

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
