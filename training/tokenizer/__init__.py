"""Tokenizers of transformers: loaded, checked or fitted; the preview of the tokens that are trained on."""
