"""Trained weights as a folder that transformers and peft load."""
