"""The stages of prepare, in the order of the main job.

tables.py       what depends on all rows of a table
collect.py      reads, cleans and validates records
relevance.py    records whose answer is not near its question, by vectors
duplicates.py   questions or answers that repeat others
complexity.py   how difficult each record is, for a curriculum
split.py        which record is for training, validation or test; how many of each source and class
split_stage.py  the stage that decides where each record goes, and where records of earlier runs are
write.py        the splits, the ledger and the list
"""
