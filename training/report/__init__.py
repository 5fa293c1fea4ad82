"""The report of a training: `report.json` for programs, `report.html` for people."""
