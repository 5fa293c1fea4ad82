"""Questions about a run, answered from its artifacts, each with its verb: what-if, explain, sample."""
