"""The stages of prepare, in the order of the main job, and what they share.

collect.py      reads, cleans and validates records
relevance.py    records whose answer is not near its question, by vectors
compared.py     which texts of records are compared, for duplicates
duplicates.py   questions or answers that repeat others, and different answers to equal questions
outliers.py     records whose lengths are far from those of their group
complexity.py   how difficult each record is, for a curriculum
kept.py         where records of earlier runs are
split.py        which record is for training, validation or test
amounts.py      how many records of each source and class
split_stage.py  the stage that decides where each record goes
write.py        the splits, the ledger and the list
"""
