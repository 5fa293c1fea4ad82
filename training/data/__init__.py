"""From packed artifacts to batches: schemas, the order of rows, reading, collation, prefetching."""
