"""The ground a job stands on: configuration, storage, artifacts, stages, the Ray session and the command line."""

__version__ = "0.2.0"
