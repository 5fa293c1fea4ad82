"""Corpus in, weights out. Meets `pipelines` only on storage, in an artifact."""
