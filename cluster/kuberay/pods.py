"""Pod templates of a RayJob's head and workers.

Every pod meets Pod Security "restricted", has equal requests and limits (so that it is not evicted for memory), a root
file system that cannot be written, and local disk of a stated size for scratch, Ray's logs and spilled objects. KubeRay
adds to it: /dev/shm in memory, probes, an init container in workers, and the autoscaler beside the head.
"""

from collections.abc import Mapping
from typing import Any

from cluster.kuberay.profiles import Profile
from cluster.session import WORKER_ENVIRONMENT
from cluster.submit.backend import GRACE_S
from cluster.submit.work import GIB, RAY_DISK, Machines

Manifest = dict[str, Any]

CONFIG_FOLDER = "/etc/raymill"
HEAD_ACCOUNT, WORKER_ACCOUNT = "raymill-head", "raymill-worker"
# Workers of a training, which replace and delete files, and of a cluster for development, which do every kind of work.
TRAINER_ACCOUNT = "raymill-trainer"
# A ConfigMap of the namespace: region and endpoint of the store, and whatever all pods have in their environment.
ENVIRONMENT = "raymill-environment"
# The user of the images (deploy/), which cannot be root.
USER = 1000

LABEL = "raymill.io/"
_GCS_PORT = 6379  # port of Ray's control process
METRICS_PORTS = ({"containerPort": 8080, "name": "metrics"},)
HEAD_PORTS = (
    {"containerPort": _GCS_PORT, "name": "gcs"},
    {"containerPort": 8265, "name": "dashboard"},
    *METRICS_PORTS,
    {"containerPort": 44217, "name": "as-metrics"},
    {"containerPort": 44227, "name": "dash-metrics"},
)
GPU_TAINT = "nvidia.com/gpu"

RESTRICTED_CONTAINER = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
_RESTRICTED_POD = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}
# Tools that move pods to fewer nodes leave these alone.
_NOT_MOVED = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}


def head_pod(
    machine: Machines, profile: Profile, image: str, labels: Mapping[str, str], config_map: str | None = None
) -> Manifest:
    """The head: driver, control process, dashboard. It runs no tasks. config_map: with the config of a job."""
    main = _container("ray-head", machine, profile, image, HEAD_PORTS)
    main["env"] += [
        # A cancelled driver commits what is done before Ray kills it; Ray's default is 3 s.
        {"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": str(GRACE_S)},
    ]
    if config_map:
        main["volumeMounts"].append({"name": "config", "mountPath": CONFIG_FOLDER, "readOnly": True})
    log = {
        "name": "driver-log",
        "image": image,
        "command": ["python", "-m", "cluster.kuberay.driver_log", "/tmp/ray", str(_GCS_PORT)],
        "resources": _equal({"cpu": "50m", "memory": "64Mi", "ephemeral-storage": "64Mi"}),
        "securityContext": RESTRICTED_CONTAINER,
        "volumeMounts": [{"name": "ray", "mountPath": "/tmp/ray", "readOnly": True}],
    }
    spec = _spec([main, log], machine, profile, HEAD_ACCOUNT)
    if config_map:
        spec["volumes"].append({"name": "config", "configMap": {"name": config_map}})
    # It is never on spot nodes, whose notice may be shorter than the driver needs to commit.
    spec["terminationGracePeriodSeconds"] = max(profile.grace_s, GRACE_S + 30)
    # The autoscaler beside it reads and changes this job's RayCluster; without one, no pod needs the API.
    spec |= {"automountServiceAccountToken": profile.autoscale, "priorityClassName": "raymill-head"}
    if profile.head_nodes:
        spec["nodeSelector"] = dict(profile.head_nodes)
    return {"metadata": {"labels": _labels(labels, "head"), "annotations": dict(_NOT_MOVED)}, "spec": spec}


def worker_pod(machine: Machines, profile: Profile, image: str, labels: Mapping[str, str], account: str) -> Manifest:
    """A worker of a group of machines. account: see WORKER_ACCOUNT."""
    main = _container("ray-worker", machine, profile, image, METRICS_PORTS)
    main["env"] += [{"name": name, "value": value} for name, value in WORKER_ENVIRONMENT.items()]
    spec = _spec([main], machine, profile, account)
    spec |= {"automountServiceAccountToken": False, "priorityClassName": "raymill-worker"}
    metadata: Manifest = {"labels": _labels(labels, machine.name)}
    if nodes := profile.gpu_nodes if machine.gpus else profile.cpu_nodes:
        spec["nodeSelector"] = dict(nodes)
    if machine.gpus:
        main["env"].append({"name": "NCCL_DEBUG", "value": "WARN"})
        spec["tolerations"] = [{"key": GPU_TAINT, "operator": "Exists", "effect": "NoSchedule"}]
        spec["affinity"] = {"podAffinity": _same_zone(metadata["labels"])}
        metadata["annotations"] = dict(_NOT_MOVED)
    elif profile.spot:
        spec["tolerations"] = [
            {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"}
            for key, value in profile.spot_taints.items()
        ]
        # Preferred, not required: without free spot nodes the pods start on others.
        spec["affinity"] = {"nodeAffinity": _prefer(profile.spot_labels)}
    return {"metadata": metadata, "spec": spec}


def _container(
    name: str, machine: Machines, profile: Profile, image: str, ports: tuple[Mapping[str, Any], ...]
) -> Manifest:
    amounts: Manifest = {
        "cpu": str(machine.cpus),
        "memory": _gib(machine.memory),
        "ephemeral-storage": _gib(machine.disk),
    }
    if machine.gpus:
        amounts[GPU_TAINT] = str(machine.gpus)
    environment = {
        "HOME": "/tmp",
        "XDG_CACHE_HOME": "/tmp/cache",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(profile.drain_s),
        # KubeRay adds this and the token. An operator that is older than tokens adds neither: with this, Ray ends with
        # an error instead of opening the dashboard to everybody.
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_DEDUP_LOGS": "0",
        # Ray repeats a task without limit after an out-of-memory kill; Raymill counts the attempts of its units.
        "RAY_task_oom_retries": "1",
    }
    sources: list[Manifest] = [{"configMapRef": {"name": ENVIRONMENT, "optional": True}}]
    if profile.secret:
        sources.append({"secretRef": {"name": profile.secret}})
    return {
        "name": name,
        "image": image,
        "env": [{"name": key, "value": value} for key, value in environment.items()],
        "envFrom": sources,
        "ports": [dict(port) for port in ports],
        "resources": _equal(amounts),
        "securityContext": RESTRICTED_CONTAINER,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "scratch", "mountPath": "/tmp"},
            {"name": "ray", "mountPath": "/tmp/ray"},
            {"name": "spill", "mountPath": "/spill"},
            *({"name": f"claim-{claim}", "mountPath": folder} for folder, claim in profile.claims.items()),
        ],
    }


def _spec(containers: list[Manifest], machine: Machines, profile: Profile, account: str) -> Manifest:
    half = _gib(RAY_DISK // 2)
    return {
        "serviceAccountName": account,
        # KubeRay starts a new pod for one that ended; the autoscaler allows no other policy.
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": profile.grace_s,
        "securityContext": dict(_RESTRICTED_POD),
        "containers": containers,
        "volumes": [
            {"name": "scratch", "emptyDir": {"sizeLimit": _gib(max(GIB, machine.disk - RAY_DISK))}},
            {"name": "ray", "emptyDir": {"sizeLimit": half}},
            {"name": "spill", "emptyDir": {"sizeLimit": half}},
            *(
                {"name": f"claim-{claim}", "persistentVolumeClaim": {"claimName": claim}}
                for claim in dict.fromkeys(profile.claims.values())
            ),
        ],
    }


def _labels(labels: Mapping[str, str], role: str) -> dict[str, str]:
    # Budgets, network policies and monitors select by our labels: KubeRay gives every attempt's cluster a new name.
    return {**labels, "app.kubernetes.io/component": role, f"{LABEL}role": role}


def _equal(amounts: Mapping[str, str]) -> Manifest:
    return {"requests": dict(amounts), "limits": dict(amounts)}


def _same_zone(labels: Mapping[str, str]) -> Manifest:
    """Prefer one zone: workers exchange gradients every step, and traffic between zones is slow and costs money."""
    term = {"labelSelector": {"matchLabels": dict(labels)}, "topologyKey": "topology.kubernetes.io/zone"}
    return {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]}


def _prefer(labels: Mapping[str, str]) -> Manifest:
    wanted = [{"key": key, "operator": "In", "values": [value]} for key, value in labels.items()]
    return {
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": {"matchExpressions": wanted}}]
    }


def _gib(size: int) -> str:
    return f"{-(-size // GIB)}Gi"
