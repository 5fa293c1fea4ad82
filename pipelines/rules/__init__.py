"""Rules: each judges a document by numbers measured on it and gives a reason."""
