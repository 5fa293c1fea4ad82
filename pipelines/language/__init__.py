"""Language identification, and the fastText classifiers that it and the quality rule use."""
