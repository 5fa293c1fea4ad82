"""One record: what is done to it without a look at others. Its content is in cluster/examples/content.py.

fields.py      ids, metadata, annotations, provenance and classes
times.py       dates and times as numbers
tables.py      rows of tables as records
clean.py       text fields put in order: normalisation, terms, personal data
conversion.py  texts turned into questions and answers, chats into texts
sections.py    long texts divided at headings and paragraphs
validate.py    the rules that a record must meet
answers.py     the rules on answers
outliers.py    records whose lengths are far from those of their group
"""
