"""Check of the network policies as a graph: which connections they let through, and which not."""

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tests.deploy.check import Broken, Check, Objects
from tests.deploy.manifests import Manifest, first, of_kind, pod_templates, ray_clusters, ray_pods, workers_of


@dataclass(frozen=True)
class End:
    """One end of a connection: a pod by its labels and its namespace's name, or an address."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = "raymill"
    address: str | None = None


def reaches(objects: Objects, source: End, target: End, port: int, protocol: str = "TCP") -> bool:
    """Whether the policies let a connection through: both ends have to allow it, if they are pods of the namespace."""
    policies = of_kind(objects, "NetworkPolicy")
    return _allows(policies, "Egress", source, target, port, protocol) and _allows(
        policies, "Ingress", target, source, port, protocol
    )


def _allows(policies: Objects, direction: str, own: End, other: End, port: int, protocol: str) -> bool:
    if own.address or own.namespace != "raymill":
        return True
    about = [
        one["spec"]
        for one in policies
        if direction in one["spec"]["policyTypes"] and selects(one["spec"]["podSelector"], own.labels)
    ]
    if not about:
        return True
    peers, rules = ("to", "egress") if direction == "Egress" else ("from", "ingress")
    return any(
        _port_fits(rule, port, protocol) and (not rule.get(peers) or any(_is_peer(peer, other) for peer in rule[peers]))
        for spec in about
        for rule in spec.get(rules, ())
    )


def _port_fits(rule: Manifest, port: int, protocol: str) -> bool:
    ports = rule.get("ports")
    return not ports or any(one["port"] == port and one.get("protocol", "TCP") == protocol for one in ports)


def _is_peer(peer: Manifest, end: End) -> bool:
    if block := peer.get("ipBlock"):
        if end.address is None:
            return False
        address = ipaddress.ip_address(end.address)
        outside = any(address in ipaddress.ip_network(one) for one in block.get("except", ()))
        return address in ipaddress.ip_network(block["cidr"]) and not outside
    if end.address is not None:
        return False
    if "namespaceSelector" in peer:
        if not selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": end.namespace}):
            return False
    elif end.namespace != "raymill":
        return False
    return selects(peer.get("podSelector", {}), end.labels)


def selects(selector: Manifest, labels: Mapping[str, str]) -> bool:
    assert selector.keys() <= {"matchLabels"}, f"{selector}: only matchLabels are understood here"
    return selector.get("matchLabels", {}).items() <= labels.items()


_DNS = (
    End("DNS", {"k8s-app": "kube-dns"}, "kube-system"),
    End("NodeLocal DNSCache", {"k8s-app": "node-local-dns"}, "kube-system"),
    End("NodeLocal DNSCache by its address", address="169.254.20.10"),
)
_CLOUD_DNS = End("Cloud DNS", address="169.254.169.254")
_OPERATOR = End("the operator", {"app.kubernetes.io/name": "kuberay-operator"}, "kuberay-operator")
_PROMETHEUS = End("Prometheus", {}, "monitoring")
_STRANGER = End("a pod of another namespace", {"app.kubernetes.io/part-of": "raymill"}, "default")
_OTHER = End("another pod of the namespace")
_STORE, _WEB = End("a store, HTTPS", address="52.218.0.1"), End("a web server, HTTP", address="93.184.216.34")
_NODE_KEYS, _API = End("the node's credentials", address="169.254.169.254"), End("the API", address="10.96.0.1")
_OWN_STORE = End("the store of static-s3", address="10.20.30.40")


def _connections(objects: Objects) -> Iterator[tuple[End, End, int, str, bool]]:
    """(from, to, port, protocol, whether it has to be possible)."""
    names = {one["metadata"]["name"] for one in of_kind(objects, "NetworkPolicy")}
    pods = {name: End(name, template["metadata"]["labels"]) for name, _, template in ray_pods(objects)}
    on_gke = "workload-identity" in names
    scaled = {_head_name(owner) for owner, spec in ray_clusters(objects) if spec.get("enableInTreeAutoscaling")}
    for name, pod in pods.items():
        is_head = name.endswith(", head")
        for protocol in ("UDP", "TCP"):
            for names_from in _DNS:
                yield pod, names_from, 53, protocol, True
            yield pod, _CLOUD_DNS, 53, protocol, on_gke
        yield pod, _STORE, 443, "TCP", True
        yield pod, _WEB, 80, "TCP", False
        yield pod, _NODE_KEYS, 80, "TCP", on_gke  # there it gives those of the pod's account
        yield pod, _OWN_STORE, 9000, "TCP", "static-s3" in names
        yield pod, _API, 443, "TCP", name in scaled
        yield _OPERATOR, pod, 8265, "TCP", is_head
        yield _OPERATOR, pod, 6379, "TCP", False
        yield _PROMETHEUS, pod, 8080, "TCP", True
        yield _PROMETHEUS, pod, 8265, "TCP", False
        for port in (6379, 8080, 8265, 10001):
            yield _STRANGER, pod, port, "TCP", False
            yield _OTHER, pod, port, "TCP", False
        for other in pods.values():
            yield pod, other, 10002, "TCP", True
    yield _OTHER, _STORE, 443, "TCP", False
    yield _STRANGER, _OTHER, 80, "TCP", False
    for name, template in pod_templates(objects):
        if name.startswith("CronJob"):
            yield End(name, template["metadata"]["labels"]), _API, 443, "TCP", True


def _head_name(owner: Manifest) -> str:
    return f"{owner['kind']} {owner['metadata']['name']}, head"


def network(objects: Objects) -> list[str]:
    found = []
    for source, target, port, protocol, wanted in _connections(objects):
        if reaches(objects, source, target, port, protocol) != wanted:
            problem = "cannot reach" if wanted else "reaches"
            found.append(f"{source.name} {problem} {target.name} at {port}/{protocol}")
    return found


def _policy(objects, name):
    return first(objects, "NetworkPolicy", name)


CHECKS = (
    Check(
        "network policies let through what jobs need, and nothing else",
        network,
        (
            Broken(
                "no opening for the operator",
                lambda o: o.remove(_policy(o, "operator")),
                "the operator cannot reach .*head at 8265",
            ),
            Broken("no opening between pods", lambda o: o.remove(_policy(o, "between")), "cannot reach .* at 10002"),
            Broken("no DNS", lambda o: o.remove(_policy(o, "names")), "cannot reach DNS"),
            Broken(
                "no cache of names on the nodes",
                lambda o: _policy(o, "names")["spec"]["egress"][0]["to"].__delitem__(slice(1, None)),
                "cannot reach NodeLocal DNSCache",
            ),
            Broken(
                "no Cloud DNS on GKE",
                lambda o: o.remove(_policy(o, "cloud-dns")),
                "cannot reach Cloud DNS",
                world="gke",
            ),
            Broken(
                "nothing closed",
                lambda o: o.remove(_policy(o, "deny")),
                "another namespace reaches another pod of the namespace",
            ),
            Broken(
                "the store at every address",
                lambda o: _policy(o, "store")["spec"]["egress"][0]["to"][0]["ipBlock"].pop("except"),
                "reaches the API",
            ),
            Broken(
                "the store at every port",
                lambda o: _policy(o, "store")["spec"]["egress"][0].pop("ports"),
                "reaches a web server",
            ),
            Broken(
                "the dashboard open to all namespaces",
                lambda o: _policy(o, "operator")["spec"]["ingress"][0].pop("from"),
                "another namespace reaches .*8265",
            ),
            Broken(
                "the autoscaler cut off from the API",
                lambda o: o.remove(_policy(o, "autoscaler")),
                "head cannot reach the API",
            ),
            Broken(
                "the CronJob cut off from the API", lambda o: o.remove(_policy(o, "nightly")), "CronJob .*cannot reach"
            ),
            Broken(
                "pods without our label",
                lambda o: workers_of(o)["template"]["metadata"]["labels"].pop("app.kubernetes.io/part-of"),
                "cannot reach",
            ),
        ),
    ),
)
