"""A model's folder: found, fingerprinted and checked by its small files, without torch and without weights."""
