"""Files of any format to tables of documents, readable and unreadable.

inputs.py     the settings `inputs` and `limits` of a config
listing.py    the inputs of a config -> their files, from listings alone
freeze.py     their files -> InputManifest: files, carried columns, units
recorded.py   the manifest on the store of a run
units.py      the manifest; and `read_unit`: a unit -> tables of documents
quarantine.py unreadable and lost rows: their number, the bound on them, and the warnings
reader.py     the interface of a reader, and the tables that readers return
streams.py    files as streams: spans, decompression, encodings, lines, problems of whole files
formats/      a reader for each format
"""
