"""Write spacy_tokens.txt anew: tokens of spaCy's blank English tokenizer, separated by spaces, a chunk a line.

Run it with spaCy 3.8 (`make .venv-peers`): .venv-peers/bin/python -m tests.golden.spacy_tokens. The chunks are those of
the file: seeded random joins of addresses, numbers with units, words with infixes, and words between prefixes and
suffixes. To add one, append a line.
"""

from pathlib import Path

import spacy

path = Path(__file__).with_suffix(".txt")
tokenize = spacy.blank("en").tokenizer
lines = [tokenize(line.replace(" ", "")) for line in path.read_text().splitlines()]
path.write_text("".join(" ".join(token.text for token in tokens) + "\n" for tokens in lines))
