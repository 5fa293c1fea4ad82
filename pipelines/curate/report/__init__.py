"""The report of a run.

gather.py                report.json (schema.py) from the artifacts of the stages, with run_warnings.py
page.py                  report.html from report.json; its sections: funnel, breakdowns, signals, examples
funnel.py                also the text that `raymill curate` prints at its end
"""
