"""The report of a training: `report.json`, and `report.html` made from it."""
