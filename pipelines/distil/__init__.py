"""A judge of documents, and a small classifier that is trained on its scores."""
