"""Questions about a finished run, answered from its artifacts.

run_reader.py   opens a run: its config, artifacts and inputs
what_if.py      how many documents other bounds would remove
decide_again.py signals compared with other bounds
explain.py      why one document was kept or removed
sample.py       rows of an artifact, drawn by a condition
"""
