"""Corpus in, packed rows out: read, split, tokenise, mask, shuffle, pack."""
