"""Variants of training records, made without a model.

settings.py    the section `augment` of a config: operations, numbers of variants, what stays
draws.py       random numbers that depend on names alone
pieces.py      a text as words, gaps and what must stay; the similarity of texts
noise.py       typos, OCR confusions, case, punctuation, words left out and exchanged, spelling
spellings.txt  pairs of spellings
synonyms.py    words of a thesaurus
thesaurus.py   its files
entities.py    numbers, dates and names, replaced in the whole record
variants.py    the variants of a record
"""
