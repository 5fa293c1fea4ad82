"""The stages of curate, in the order of the main job, and what they share.

measure.py             every document once: normalised, language, signals, personal data, signature
id_index.py            an index of ids, for `explain` and the next stage
duplicate_ids.py       ids that several documents have
decide.py              signals compared with bounds: a reason of removal, or none
removed_duplicates.py  counts of the duplicates that pipelines.dedup found
boilerplate.py         lines or paragraphs that many documents have
repeats.py             runs of words that several documents have
write_corpus.py        kept documents, and a ledger row for each removed one
contaminated.py        texts of evaluation sets in documents, as rows
cuts.py                how pieces and runs are cut out of a text
shared_keys.py         keys that several documents have, counted by ranges
kept_texts.py          the texts of kept documents, read again
neighbours.py          neighbouring files as units
"""
