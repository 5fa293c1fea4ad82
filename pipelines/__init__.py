"""Documents in, corpus out: read, normalise, measure, decide, deduplicate, select, report."""
