"""Training of packed rows: the loop, its checkpoints and log, and its start by Ray Train or torchrun."""
