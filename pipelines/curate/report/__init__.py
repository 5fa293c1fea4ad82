"""The report of a run.

tallies.py, samples.py   counts and examples of a unit, which the stages decide and select write
gather.py                report.json (schema.py) from these and the other artifacts, with run_warnings.py
page.py                  report.html from report.json; its sections: funnel, breakdowns, signals, examples
funnel.py                also the text that `raymill curate` prints at its end
"""
