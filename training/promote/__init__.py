"""The kind `promote`, which points an alias, such as `champion`, to a model, and the verb `alias`, which reads it."""
