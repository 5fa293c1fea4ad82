"""What a preparation does and takes, before it runs: `raymill prepare --dry-run` and `raymill plan`.

trial.py     all stages on a sample of the input, in this process
estimate.py  from the rates of the sample to every stage of the whole
command.py   the output of `raymill plan`
dry_run.py   the output of `raymill prepare --dry-run`
"""
