"""The job of a training, and its records on storage: checkpoints, fit, evaluation, export. Without torch: driver,
workers and report read them.
"""
