"""What a run takes, before it runs: `raymill plan`, the same for every kind of config.

sample.py    the first rows of some units of the input
trial.py     stages on a sample of the input, in this process
whole.py     all stages of the run, planned and not run: units and memory are those of the stages, the rest is scaled
plan.py      the verb; what a kind of run gives to its plan; time and money on several numbers of cores; as text
"""
