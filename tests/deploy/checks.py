"""Every check of the manifests in k8s/."""

from tests.deploy import checks_access, checks_network, checks_operator, checks_pods, checks_schema, checks_sizes

CHECKS = (
    *checks_schema.CHECKS,
    *checks_operator.CHECKS,
    *checks_pods.CHECKS,
    *checks_sizes.CHECKS,
    *checks_network.CHECKS,
    *checks_access.CHECKS,
)
