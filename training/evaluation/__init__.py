"""What a trained model says: generation on held-out prompts, and its scores."""
