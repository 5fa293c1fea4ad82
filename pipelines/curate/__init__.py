"""Curation: documents in, corpus out.

kind.py      declaration of this kind of run
config.py    the settings of `kind: curate`
job.py       the stages in order; the machines, the checks and the plan of a run
stages/      what each stage reads and writes
questions/   what-if, explain, sample: asked of a run
report/      report.json and the page
"""
