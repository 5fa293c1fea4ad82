"""The report of a run: report.json (gather.py, run_warnings.py) and report.html (page.py)."""
