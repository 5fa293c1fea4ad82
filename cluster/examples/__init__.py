"""Forms of training examples in data sets: usual columns, messages, tool calls."""
