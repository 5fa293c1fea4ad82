"""How fast training is on this machine: random weights, random packed rows, the real objective and the real engine."""

# Steps before the measured ones: compilation, allocators' growth, optimizer state.
WARM_UP = 3
