"""What a training would take, before a GPU is allocated."""
