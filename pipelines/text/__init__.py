"""Text as flat arrays, and the kernels that read it: characters, words, lines, sentences, n-grams."""
