"""The kind `promote`, which moves an alias of a model, such as `champion`, and the verb `alias`, which reads it."""
