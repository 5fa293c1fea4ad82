"""Preparation of data for fine-tuning: records from many sources, cleaned, validated and split.

    config.py      the settings of `kind: prepare`
    job.py         the main job: its stages in order
    sources.py     the inputs: which column is which field
    content.py     what a record says: text, conversation or preference, and its forms as columns
    templates.py   texts turned into instructions
    clean.py       text fields put in order: normalisation, terms, personal data
    times.py       dates and times as numbers
    validate.py    the rules that a record must meet
    collect.py     the stage that reads, cleans and validates
    complexity.py  how difficult each record is, for a curriculum
    tables/        tables as sources: types, missing values, outliers, expressions, templates
    split.py       which record is for training, validation or test
    amounts.py     how many records of each source and class
    split_stage.py the stage that decides where each record goes
    write.py       the stage that writes the splits and the ledger
    assess/        what the splits are like: metrics, score, gates
    finished.py    a finished run, by its manifest
    plan/          what a run does and takes, from a sample
    report.py      what the run did, as JSON and as a page

Readers, text kernels, personal data and deduplication are shared with curate.
"""
