"""The driver of a fit: checks of the machines, start of the workers by Ray Train, progress on the terminal."""
