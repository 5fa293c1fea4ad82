"""Named versions of data sets: what `raymill dataset` tags, lists, compares, describes and exports.

    registry.py  the records of versions
    diff.py      what differs between two versions: records, distributions, assessments
    export.py    a folder that `datasets` loads, JSON Lines and other formats; a data set card; a push to the hub

A version points at an output of `raymill prepare`, whose artifacts never change, by its URI and digest.
"""
