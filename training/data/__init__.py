"""Packed rows as batches: what a packed artifact holds, in which order it is read, and how rows become tensors."""
