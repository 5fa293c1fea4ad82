"""Reading input files for curation and packing: spans of files, decompression, lines, bounds."""
