"""What all kinds of runs have in common, once. A kind is its config, its stages, its report and its checks.

kind.py       how a kind names these (`Kind`), and its verbs
kinds.py      the kinds that there are
job.py        what a kind supplies (`RunJob`), and what becomes of it: find, refuse, lease, make, publish
commands.py   the verb of a kind
work.py       what `submit` needs to know of a run
"""
