"""Benchmarks of training on this machine, with random weights and rows and the real objective and engine."""

# Steps before the measured ones, in which layers are compiled and memory is allocated.
WARM_UP = 3
