"""Base models, adapters and what is computed on them: from a name to a module whose call is a loss."""
