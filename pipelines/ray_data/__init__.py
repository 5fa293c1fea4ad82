"""Operators for Ray Data: the work of `curate` on the batches of any Dataset. Imported as `raymill.data`."""
