"""Files of any format to tables of documents, readable and unreadable.

inputs.py     the setting `inputs` of a config
find.py       a path -> its files
listing.py    the inputs of a config -> their files, from listings alone
freeze.py     their files -> InputManifest: files, units, carried columns
divide.py     how much text a unit has, and which pieces of files belong to it
recorded.py   the manifest on the store of a run
units.py      the manifest; and `read_unit`: a unit -> tables of documents
reader.py     the interface of a reader, and the tables that readers return
formats/      a reader for each format
files/        what readers of several formats need: spans, decompression, bounds, lines, JSON, Arrow, Parquet
"""
