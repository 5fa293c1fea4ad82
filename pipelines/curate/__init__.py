"""Curation: documents in, corpus out.

config.py         the settings of `kind: curate`
job.py            the main job: its stages in order
stages/           the stages, and what they share
questions/        what-if, explain, sample: asked of a run
plan.py           time, memory, requests and money beforehand
report/           report.json and the page
dry_run.py        what would be read and done
work.py           a run as a job of a cluster: machines and checks
commands.py       the verbs
"""
