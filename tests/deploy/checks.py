"""Every check of the manifests in k8s/."""

from tests.deploy import checks_access, checks_operator, checks_pods, checks_schema

CHECKS = (*checks_schema.CHECKS, *checks_operator.CHECKS, *checks_pods.CHECKS, *checks_access.CHECKS)
