"""Submits a config as a job: to this machine, to a Ray cluster, or to Kubernetes through KubeRay."""
