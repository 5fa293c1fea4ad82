"""Kubernetes objects of KubeRay for a config: a RayJob with machines sized from it, and the verb `render`."""
