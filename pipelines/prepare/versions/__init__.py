"""Named versions of data sets: what `raymill dataset` tags, lists, compares, describes and exports.

    registry.py  the records of versions
    diff.py      what differs between two versions
    examples.py  records by which two versions differ
    metrics.py   the assessments of two versions side by side
    card.py      a data set card in the format of the Hugging Face hub
    export.py    a folder that `datasets` loads, or JSON Lines
    commands.py  the verb

A version points at an output of `raymill prepare`, whose artifacts never change, by its URI and digest.
"""
