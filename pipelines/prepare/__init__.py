"""Preparation of data for fine-tuning: records from many sources, cleaned, validated and split.

    config.py        the settings of `kind: prepare`
    named_fields.py  the fields that settings name, and the columns that hold them
    sources.py       the inputs: which column is which field
    fetch/           rows of databases, APIs and web pages, as files
    tables/          tables as sources: types, missing values, outliers, expressions, templates
    job.py           the main job: its stages in order
    records/         one record: content, cleaning, rules
    stages/          the stages: collect, duplicates, split, write
    assess/          what the splits are like: metrics, score, gates
    finished.py      a finished run, by its manifest
    report.py        what the run did, as JSON and as a page
    versions/        named versions: differences, cards, exports
    plan/            what a run does and takes, from a sample
    work.py          a run as a job of a cluster: machines and checks
    commands.py      the verbs

Readers, text kernels, personal data and deduplication are shared with curate.
"""
