"""What readers of several formats need: spans of files, decompression, bounds, lines, JSON, Arrow, Parquet, the hub."""
