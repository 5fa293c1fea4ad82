"""The stages of curate; job.py has them in order. Settings, columns, cost and reasons of a stage are in its file."""
