"""The ground a job stands on: configuration, storage, artifacts, stages, the Ray session and the command line."""

from raymill.cluster import numba_settings

__version__ = "0.2.0"

numba_settings.ignore_file()
