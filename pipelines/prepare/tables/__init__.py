"""Tables as sources: typed columns, missing values, outliers, repeated rows, derived columns, and a template.

settings.py   the settings `table` of an input
frame.py      what is done with the rows of a table, on polars
stage.py      the stage that finds what depends on all rows of a source
"""
