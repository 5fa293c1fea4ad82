"""Preparation of data for fine-tuning: records from many sources, cleaned, validated and split.

    config.py    the settings of `kind: prepare`; those of a stage stand with the stage
    sources.py   the inputs: which column is which field, and the fields that settings name
    fetch/       rows of databases, APIs and web pages, as files
    job.py       the main job: its stages in order, its machines, what a dry run prints
    records/     one record: content, cleaning, rules
    stages/      the stages: tables, collect, duplicates, split, write
    assess/      what the splits are like: metrics, score, gates
    report/      what the run did, as JSON and as a page
    versions/    named versions: differences, cards, exports
    plan.py      what a run does and takes, from a sample
    commands.py  the verbs `assess` and `dataset`
    kind.py      the declaration of the kind

Readers, text kernels, personal data and deduplication are shared with curate.
"""
