"""Documents as flat arrays, and the kernels that read them: characters, words, lines, n-grams, personal data."""
