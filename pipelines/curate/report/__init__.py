"""The report of a run: gather.py makes report.json (schema.py), page.py the HTML page of it, terminal.py the funnel."""
