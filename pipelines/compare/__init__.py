"""Models on the same items, compared: the kind `compare`."""
