"""Forms of training examples in data sets: messages."""
