"""Documents in, corpus out: read, normalise, measure, decide, deduplicate, select, report."""

from raymill.pipelines import kernel_cache

kernel_cache.use()
