"""The kind `run`: a run file, whose steps are runs of other kinds. No kind is named here.

config.py    steps, references between them, conditions, matrices
job.py       the steps in order, each found, continued or made
at_once.py   several steps at the same time
plan.py      `raymill plan` and the dry run of all steps
"""
