"""Duplicates: signatures, candidates that share a band, the verified greedy loop, and the stage that runs them."""
