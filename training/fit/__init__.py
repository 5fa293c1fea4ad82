"""The step loop, its checkpoints and its log; and how Ray Train or torchrun starts it."""
