"""Training of packed rows in the workers: the loop, its checkpoints and log; run by Ray Train or torchrun."""
