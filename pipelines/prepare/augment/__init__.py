"""Variants of training records, made without a model.

settings.py    the section `augment` of a config: operations, numbers of variants, protected parts
draws.py       random numbers that depend on names alone
pieces.py      division of a text into words, gaps and protected parts; similarity of texts
noise.py       typos, OCR errors, case, punctuation, words left out and exchanged, spelling
spellings.txt  pairs of spellings
synonyms.py    synonyms of a thesaurus
thesaurus.py   the files of a thesaurus
entities.py    numbers, dates and names, replaced consistently in a record
variants.py    the variants of a record
"""
