"""Documents in, corpus out: read, normalise, measure, decide, deduplicate, select, report."""

from pipelines import kernel_cache

kernel_cache.use()
