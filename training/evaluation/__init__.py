"""Evaluation after training: held-out loss, answers generated to held-out prompts, and their scores."""
