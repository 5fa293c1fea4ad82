"""One record: what is done to it without a look at others. Its forms are in cluster/examples/content.py.

templates.py    texts turned into questions and answers, chats into texts
sections.py     long texts divided at headings and paragraphs
annotations.py  labels, categories and annotators
provenance.py   the records that a record was made of
times.py        dates and times as numbers
clean.py        text fields put in order: normalisation, terms, personal data
validate.py     the rules that a record must meet
answers.py      the rules on answers
"""
