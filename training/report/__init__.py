"""report.html of a training."""
