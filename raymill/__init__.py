"""Raw text on an object store to a training corpus, and the corpus to a fine-tuned model, on Ray."""
