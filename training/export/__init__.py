"""Export of trained weights as folders that transformers and peft load."""
