"""The report of a run: `report.json` for programs, `report.html` for people, the funnel for a terminal."""
