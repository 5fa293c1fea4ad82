"""Heads of attention, divided among workers that share rows (`workers.context`). Imports no torch.

Each worker computes equally many heads, with the key-value heads of its own queries. Where there are fewer key-value
heads than workers, each is repeated.
"""

import math

from raymill.cluster.errors import ConfigError


def repeats_of(kv_heads: int, workers: int) -> int:
    """How often each key-value head is repeated, so that the workers get equally many."""
    return workers // math.gcd(kv_heads, workers)


def refuse_heads(heads: int, kv_heads: int, workers: int) -> None:
    """Check that the heads can be divided.

    Raises:
        ConfigError: they cannot; the message has the numbers of workers that can share a row.
    """

    def divides(among: int) -> bool:
        return heads % (kv_heads * repeats_of(kv_heads, among)) == 0

    if not divides(workers):
        possible = ", ".join(str(one) for one in range(1, heads + 1) if divides(one))
        raise ConfigError(
            f"workers.context: the model's {heads} heads with {kv_heads} of keys and values cannot be divided among "
            f"{workers} workers. Use one of {possible}."
        )
