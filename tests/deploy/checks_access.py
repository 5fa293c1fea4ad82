"""Checks of what manifests refer to: selectors, accounts, tokens, ConfigMaps, and the overlay they belong to."""

from raymill.cluster.kuberay.profiles import OVERLAYS
from tests.deploy.check import Broken, Check, Objects
from tests.deploy.checks_network import selects
from tests.deploy.manifests import Manifest, first, of_kind, pod_templates, ray_clusters


def selectors(objects: Objects) -> list[str]:
    found = []
    pods = {name: template["metadata"]["labels"] for name, template in pod_templates(objects)}
    for one in of_kind(objects, "NetworkPolicy"):
        if not any(selects(one["spec"]["podSelector"], labels) for labels in pods.values()):
            found.append(f"NetworkPolicy {one['metadata']['name']}: selects no pod")
    for budget, ending in (("raymill-head", ", head"), ("raymill-gpu", ", gpu")):
        spec = first(objects, "PodDisruptionBudget", budget)["spec"]
        selector, least = spec["selector"], spec.get("minAvailable")
        chosen = {name for name, labels in pods.items() if selects(selector, labels)}
        wanted = {name for name in pods if name.endswith(ending)}
        found += [f"PodDisruptionBudget {budget}: {name}" for name in sorted(chosen ^ wanted)]
        if not isinstance(least, int):
            found.append(f"PodDisruptionBudget {budget}: wanted minAvailable as a number; a RayCluster has no scale")
        elif least < 100_000:
            found.append(f"PodDisruptionBudget {budget}: of more than {least} pods, some may be evicted")
    for one in of_kind(objects, "PodDisruptionBudget", "NetworkPolicy"):
        spec = one["spec"]
        labels = (spec.get("selector") or spec.get("podSelector", {})).get("matchLabels", {})
        if "ray.io/cluster" in labels:
            found.append(f"{one['kind']} {one['metadata']['name']}: ray.io/cluster changes with every attempt")
    for one in of_kind(objects, "Service", "Deployment"):
        selector = one["spec"]["selector"]
        selector = selector if one["kind"] == "Deployment" else {"matchLabels": selector}
        if not any(selects(selector, labels) for labels in pods.values()):
            found.append(f"{one['kind']} {one['metadata']['name']}: selects no pod")
    return found


def monitors(objects: Objects) -> list[str]:
    """PodMonitors select pods of Ray, and ports that these have, by name."""
    found = []
    for one in of_kind(objects, "PodMonitor"):
        name = f"PodMonitor {one['metadata']['name']}"
        chosen = [
            template
            for _, template in pod_templates(objects)
            if selects(one["spec"]["selector"], template["metadata"]["labels"])
        ]
        if not chosen:
            found.append(f"{name}: selects no pod")
        ports = {
            port["name"]
            for template in chosen
            for container in template["spec"]["containers"]
            for port in container.get("ports", ())
        }
        found += [
            f"{name}: no pod has a port {end['port']}"
            for end in one["spec"]["podMetricsEndpoints"]
            if end["port"] not in ports
        ]
    return found


def references(objects: Objects) -> list[str]:
    """Accounts, priorities, ConfigMaps and Secrets that pods name."""
    found = []
    there = {(one["kind"], one["metadata"]["name"]) for one in objects}
    there |= {("Secret", one["spec"]["target"]["name"]) for one in of_kind(objects, "ExternalSecret")}
    for name, template in pod_templates(objects):
        spec = template["spec"]
        wanted = [("ServiceAccount", spec.get("serviceAccountName", "default"))]
        if spec.get("priorityClassName"):
            wanted.append(("PriorityClass", spec["priorityClassName"]))
        wanted += [("ConfigMap", one["configMap"]["name"]) for one in spec.get("volumes", ()) if "configMap" in one]
        for container in spec["containers"]:
            for one in container.get("envFrom", ()):
                kind = "ConfigMap" if "configMapRef" in one else "Secret"
                named = one.get("configMapRef") or one["secretRef"]
                if kind == "ConfigMap" or not named.get("optional"):
                    wanted.append((kind, named["name"]))
            mounted = {one["name"] for one in container.get("volumeMounts", ())}
            missing = mounted - {one["name"] for one in spec.get("volumes", ())}
            found += [f"{name}, {container['name']}: mounts {one}, which is no volume of the pod" for one in missing]
        found += [f"{name}: there is no {kind} {one}" for kind, one in wanted if (kind, one) not in there]
    priorities = {one["metadata"]["name"]: one["value"] for one in of_kind(objects, "PriorityClass")}
    if not priorities["raymill-head"] > priorities["raymill-worker"]:
        found.append("PriorityClass raymill-head: not above raymill-worker")
    return found


def store_credentials(objects: Objects) -> list[str]:
    """The program that submits reads the store too, by the role of its account or by the keys that heads of jobs have.

    Workers that only create files have an account of their own, and on AWS another role than heads.
    """
    roles = {one["metadata"]["name"]: one["metadata"].get("annotations") for one in of_kind(objects, "ServiceAccount")}
    pods = {name: template["spec"] for name, template in pod_templates(objects)}
    jobs = [spec for name, spec in pods.items() if name.startswith("RayJob") and name.endswith(", head")]
    head, worker = roles["raymill-head"], roles["raymill-worker"]
    found = []
    if "eks.amazonaws.com/role-arn" in (head or {}) and head == worker:
        found.append("ServiceAccount raymill-worker: has the role of raymill-head, which deletes")
    for name, spec in pods.items():
        if not name.startswith("CronJob"):
            continue
        for job in jobs:
            if roles[spec["serviceAccountName"]] != roles[job["serviceAccountName"]]:
                found.append(f"{name}: its account has another role than {job['serviceAccountName']}")
            if missing := _secrets(job) - _secrets(spec):
                found.append(f"{name}: lacks the Secret {', '.join(missing)} of jobs")
    return sorted(set(found))


def _secrets(pod: Manifest) -> set[str]:
    return {one["secretRef"]["name"] for one in pod["containers"][0].get("envFrom", ()) if "secretRef" in one}


def tokens(objects: Objects) -> list[str]:
    found = []
    for owner, spec in ray_clusters(objects):
        head = spec["headGroupSpec"]["template"]["spec"].get("automountServiceAccountToken")
        if head is not bool(spec.get("enableInTreeAutoscaling")):
            found.append(
                f"{owner['kind']} {owner['metadata']['name']}: the head needs a token for the autoscaler alone"
            )
        for group in spec["workerGroupSpecs"]:
            if group["template"]["spec"].get("automountServiceAccountToken") is not False:
                found.append(f"{owner['kind']} {owner['metadata']['name']}, {group['groupName']}: a worker has a token")
    found += [
        f"ServiceAccount {one['metadata']['name']}: its token is mounted by default"
        for one in of_kind(objects, "ServiceAccount")
        if one.get("automountServiceAccountToken") is not False
    ]
    for role in of_kind(objects, "Role", "ClusterRole"):
        if any("*" in rule["verbs"] + rule["resources"] for rule in role["rules"]):
            found.append(f"{role['kind']} {role['metadata']['name']}: allows everything")
    return found


def namespace(objects: Objects) -> list[str]:
    labels = first(objects, "Namespace")["metadata"]["labels"]
    modes = ("enforce", "audit", "warn")
    found = [
        f"Namespace: {mode} is not restricted"
        for mode in modes
        if labels.get(f"pod-security.kubernetes.io/{mode}") != "restricted"
    ]
    for one in of_kind(objects, "Service"):
        if one["spec"].get("type", "ClusterIP") != "ClusterIP":
            found.append(f"Service {one['metadata']['name']}: is reachable from outside")
    for owner, spec in ray_clusters(objects):
        if (
            spec["headGroupSpec"].get("enableIngress")
            or spec["headGroupSpec"].get("serviceType", "ClusterIP") != "ClusterIP"
        ):
            found.append(f"{owner['kind']} {owner['metadata']['name']}: the dashboard is reachable from outside")
    return found


def profiles(objects: Objects) -> list[str]:
    """Jobs and the namespace come from the same overlay: what a profile names is what its components made."""
    jobs = of_kind(objects, "RayJob")
    if not jobs:
        return []
    labels = [job["metadata"]["labels"].get("kueue.x-k8s.io/queue-name") for job in jobs]
    policies = {one["metadata"]["name"] for one in of_kind(objects, "NetworkPolicy")}
    found = []
    for job, queue in zip(jobs, labels, strict=True):
        scaled = job["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"]
        if scaled != ("autoscaler" in policies):
            found.append(f"RayJob {job['metadata']['name']}: autoscaler {scaled}, but the overlay's component differs")
        if (queue is None) == bool(of_kind(objects, "LocalQueue")):
            found.append(f"RayJob {job['metadata']['name']}: queue {queue}, but the overlay's component differs")
    development = first(objects, "RayCluster")["spec"]["enableInTreeAutoscaling"]
    if development != ("autoscaler" in policies):
        found.append("RayCluster development: differs from the overlay's jobs in its autoscaler")
    assert all(one.namespace == "raymill" for one in OVERLAYS.values())
    return found


def _monitor(labels, port):
    spec = {"selector": {"matchLabels": labels}, "podMetricsEndpoints": [{"port": port}]}
    return {"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor", "metadata": {"name": "x"}, "spec": spec}


def _policy(objects, name):
    return first(objects, "NetworkPolicy", name)


def _head(objects):
    return first(objects, "RayJob")["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]


def _worker(objects):
    return first(objects, "RayJob")["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]


CHECKS = (
    Check(
        "monitors select pods and ports that there are",
        monitors,
        (
            Broken("by a label of no pod", lambda o: o.append(_monitor({"app": "ray"}, "metrics")), "selects no pod"),
            Broken(
                "a port without a name",
                lambda o: o.append(_monitor({"raymill.io/role": "head"}, "prometheus")),
                "no pod has a port prometheus",
            ),
        ),
    ),
    Check(
        "policies, budgets and services select the pods they are for, by labels that stay",
        selectors,
        (
            Broken(
                "a head without its role",
                lambda o: _head(o)["metadata"]["labels"].pop("raymill.io/role"),
                "PodDisruptionBudget raymill-head: RayJob .*head",
            ),
            Broken(
                "a budget for all pods",
                lambda o: first(o, "PodDisruptionBudget", "raymill-head")["spec"]["selector"]["matchLabels"].pop(
                    "raymill.io/role"
                ),
                "raymill-head: .*cpu",
            ),
            Broken(
                "a budget that needs the scale of a RayCluster",
                lambda o: first(o, "PodDisruptionBudget", "raymill-gpu")["spec"].update(minAvailable="100%"),
                "raymill-gpu: wanted minAvailable",
            ),
            Broken(
                "a budget that allows evictions when several jobs run",
                lambda o: first(o, "PodDisruptionBudget", "raymill-head")["spec"].update(minAvailable=1),
                "raymill-head: of more than 1 pods, some may be evicted",
            ),
            Broken(
                "a label that KubeRay changes",
                lambda o: _policy(o, "store")["spec"]["podSelector"]["matchLabels"].update({"ray.io/cluster": "x"}),
                "changes with every attempt",
            ),
            Broken(
                "a service without pods",
                lambda o: first(o, "Service")["spec"].update(selector={"a": "b"}),
                "Service .* selects no pod",
                world="with history-server",
            ),
        ),
    ),
    Check(
        "accounts, priorities, ConfigMaps, Secrets and volumes that pods name exist",
        references,
        (
            Broken(
                "an account that is not there",
                lambda o: _worker(o)["spec"].update(serviceAccountName="x"),
                "no ServiceAccount",
            ),
            Broken(
                "a config that is not there",
                lambda o: o.remove(first(o, "ConfigMap", "example-curate")),
                "no ConfigMap",
            ),
            Broken(
                "keys that nothing makes",
                lambda o: o.remove(first(o, "ExternalSecret")),
                "no Secret raymill-store",
                world="onprem-kueue",
            ),
            Broken("a volume that is not there", lambda o: _worker(o)["spec"]["volumes"].pop(0), "mounts scratch"),
            Broken(
                "heads that workers preempt",
                lambda o: first(o, "PriorityClass", "raymill-head").update(value=1),
                "not above",
            ),
        ),
    ),
    Check(
        "what submits jobs has the store's credentials that jobs have",
        store_credentials,
        (
            Broken(
                "an account without the role",
                lambda o: first(o, "ServiceAccount", "raymill-nightly")["metadata"].pop("annotations"),
                "another role than raymill-head",
            ),
            Broken(
                "workers with the role of heads",
                lambda o: first(o, "ServiceAccount", "raymill-worker")["metadata"].update(
                    annotations=first(o, "ServiceAccount", "raymill-head")["metadata"]["annotations"]
                ),
                "raymill-worker: has the role of raymill-head",
            ),
        ),
    ),
    Check(
        "only heads with an autoscaler have a token of the API; no role allows everything",
        tokens,
        (
            Broken(
                "a worker with a token", lambda o: _worker(o)["spec"].pop("automountServiceAccountToken"), "worker has"
            ),
            Broken(
                "an autoscaler without token",
                lambda o: _head(o)["spec"].update(automountServiceAccountToken=False),
                "the head needs a token",
            ),
            Broken(
                "a token by default",
                lambda o: first(o, "ServiceAccount").pop("automountServiceAccountToken"),
                "by default",
            ),
            Broken(
                "a role for everything", lambda o: first(o, "Role")["rules"][0].update(verbs=["*"]), "allows everything"
            ),
        ),
    ),
    Check(
        'the namespace enforces "restricted", and nothing is reachable from outside',
        namespace,
        (
            Broken(
                "only warnings",
                lambda o: first(o, "Namespace")["metadata"]["labels"].pop("pod-security.kubernetes.io/enforce"),
                "enforce is not",
            ),
            Broken(
                "a dashboard behind a load balancer",
                lambda o: first(o, "RayJob")["spec"]["rayClusterSpec"]["headGroupSpec"].update(
                    serviceType="LoadBalancer"
                ),
                "reachable from outside",
            ),
            Broken(
                "an ingress",
                lambda o: first(o, "RayJob")["spec"]["rayClusterSpec"]["headGroupSpec"].update(enableIngress=True),
                "reachable from outside",
            ),
        ),
    ),
    Check(
        "an overlay's jobs, as its profile renders them, agree with its components",
        profiles,
        (
            Broken(
                "an autoscaler that the component does not open the network for",
                lambda o: o.remove(_policy(o, "autoscaler")),
                "autoscaler True, but",
            ),
            Broken(
                "a queue without Kueue",
                lambda o: o.remove(first(o, "LocalQueue")),
                "queue raymill, but",
                world="onprem-kueue",
            ),
        ),
    ),
)
