"""Deduplication: MinHash signatures, candidates that share a band, the verified greedy loop, the stage `group`."""
