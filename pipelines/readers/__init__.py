"""Readers: one file format each; bytes in, documents and problems out."""
