"""The report of a data set: report.json, report.html and what is printed."""
