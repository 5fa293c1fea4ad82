"""The Kubernetes objects of a config: what `raymill render` prints and `raymill submit --to kuberay` creates.

Every pod meets Pod Security "restricted", has equal requests and limits (so that it is not evicted for memory), a root
file system that cannot be written, and local disk of a stated size for scratch, Ray's logs and spilled objects. KubeRay
adds to it: /dev/shm in memory, probes, an init container in workers, and the autoscaler beside the head.
"""

import importlib.metadata
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import typer
import yaml

from raymill import cluster
from raymill.cluster.answer import Text
from raymill.cluster.errors import ConfigError
from raymill.cluster.frame.calls import AnyConfig, Changes
from raymill.cluster.frame.work import work_of
from raymill.cluster.kuberay.profiles import OVERLAYS, Profile, profile_of
from raymill.cluster.session import WORKER_ENVIRONMENT
from raymill.cluster.store import paths
from raymill.cluster.submit.backend import GRACE_S
from raymill.cluster.submit.work import GIB, OBJECT_STORE, RAY_DISK, Machines, Work, whole_gib

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

# The version of KubeRay's operator and CRDs that the objects are for.
KUBERAY = "1.7.0"

CONFIG_FILE = "config.json"
# The ConfigMap of an attempt NAME is NAME-config.
CONFIG = "-config"
# Labels and annotations of a RayJob, which `raymill runs` reads; the annotations below LABEL.
RUN_ID, KIND = f"{LABEL}run-id", f"{LABEL}kind"
FINGERPRINT, OUTPUT, VERSION = "config-fingerprint", "output", "version"

# Seconds to wait for the machines; without them (no quota, no such nodes) the attempt fails.
_BEFORE_RUNNING_S = 1800
# Seconds that a cluster is kept, for its dashboard, after a success and a failure; and a RayJob, for `raymill runs`.
_KEEP_SUCCEEDED_S, KEEP_FAILED_S, KEEP_JOB_S = 300, 3600, 7 * 24 * 3600
# Seconds without work until the autoscaler removes a worker. GPU machines take long to come back.
_IDLE_S = {"cpu": 180, "gpu": 600}


def build_config_map(work: Work, name: str, profile: Profile) -> Manifest:
    """The immutable ConfigMap with the config of an attempt."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name + CONFIG, "namespace": profile.namespace, "labels": _job_labels(work)},
        "immutable": True,
        "data": {CONFIG_FILE: json.dumps(work.config, indent=1, ensure_ascii=False) + "\n"},
    }


def build_rayjob(work: Work, name: str, profile: Profile) -> Manifest:
    """The RayJob of an attempt.

    Args:
        name: name of the attempt, at most 47 characters.

    Raises:
        ConfigError: the image has no digest, or the config reads or writes a folder that pods do not have.
    """
    assert len(name) <= 47, name
    refuse_local_paths(work, profile)
    image, labels = profile.image_of(work.kind, trains=work.all_at_once), _job_labels(work)
    memory = profile.head_memory_gib * GIB if profile.head_memory_gib else work.head.memory
    reasons = dict(work.head.reasons)
    reasons |= {"cpus": f"head_cpus of overlay {profile.name}"} if profile.head_cpus else {}
    reasons |= {"memory": f"head_memory_gib of overlay {profile.name}"} if profile.head_memory_gib else {}
    head = replace(work.head, cpus=profile.head_cpus or work.head.cpus, memory=memory, reasons=reasons)
    groups = [_fitted(one, profile, work.all_at_once) for one in work.workers]
    account = TRAINER_ACCOUNT if work.all_at_once else WORKER_ACCOUNT
    cluster_spec = _cluster(head, groups, profile, image, labels, account, name + CONFIG)
    annotations = {
        f"{LABEL}{FINGERPRINT}": work.config_fingerprint,
        f"{LABEL}{OUTPUT}": work.output,
        f"{LABEL}{VERSION}": cluster.__version__,
        **{
            f"{LABEL}reason-{machine.name}-{name}": text
            for machine in (head, *groups)
            for name, text in machine.reasons.items()
        },
    }
    if profile.clean_up == "shutdown":
        clean_up: Manifest = {"shutdownAfterJobFinishes": True, "ttlSecondsAfterFinished": KEEP_FAILED_S}
    else:
        succeeded = {"jobStatus": "SUCCEEDED"}
        # jobStatus is what Ray answered last: empty or RUNNING if a deadline has passed or the head is lost.
        failed = {"jobDeploymentStatus": "Failed"}
        rules = [
            ("DeleteCluster", succeeded, _KEEP_SUCCEEDED_S),
            ("DeleteCluster", failed, KEEP_FAILED_S),
            ("DeleteSelf", succeeded, KEEP_JOB_S),
            ("DeleteSelf", failed, KEEP_JOB_S),
        ]
        clean_up = {
            "deletionStrategy": {
                "deletionRules": [
                    {"policy": policy, "condition": condition | {"ttlSeconds": seconds}}
                    for policy, condition, seconds in rules
                ]
            }
        }
    spec: Manifest = {
        "entrypoint": " ".join(["raymill", work.verb, f"{CONFIG_FOLDER}/{CONFIG_FILE}", *work.options]),
        "jobId": name,
        # The operator submits and polls. After the loss of the head it submits again, and the run continues.
        "submissionMode": "HTTPMode",
        "backoffLimit": profile.retries,
        "preRunningDeadlineSeconds": _BEFORE_RUNNING_S,
        "activeDeadlineSeconds": profile.deadline_s,
        **clean_up,
        "rayClusterSpec": cluster_spec,
    }
    if profile.queue:
        labels = labels | {"kueue.x-k8s.io/queue-name": profile.queue}
    if profile.scheduler == "volcano":
        labels = labels | {"ray.io/gang-scheduling-enabled": "true", "volcano.sh/queue-name": "raymill"}
    metadata = {"name": name, "namespace": profile.namespace, "labels": labels, "annotations": annotations}
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": spec}


def build_raycluster(name: str, head: Machines, groups: Sequence[Machines], profile: Profile) -> Manifest:
    """A RayCluster for development, to which `raymill submit --to jobs` submits; it has every kind's libraries."""
    labels = {"app.kubernetes.io/name": "raymill", "app.kubernetes.io/part-of": "raymill"}
    image = profile.image_of("train", trains=True)
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": name, "namespace": profile.namespace, "labels": labels},
        "spec": _cluster(head, groups, profile, image, labels, TRAINER_ACCOUNT),
    }


def build_group(machine: Machines, profile: Profile) -> Manifest:
    """A group of workers to be added to a RayCluster for development."""
    labels = {"app.kubernetes.io/name": "raymill", "app.kubernetes.io/part-of": "raymill"}
    return _group(machine, profile, profile.image_of("train", trains=True), labels, TRAINER_ACCOUNT)


def refuse_local_paths(work: Work, profile: Profile) -> None:
    """Check that pods can reach the output and the files of `must_exist`.

    Raises:
        ConfigError: one is a folder of this machine that no claim of the profile brings to the pods.
    """
    folders = [folder.rstrip("/") for folder in profile.claims]
    for path in (work.output, *work.must_exist):
        if paths.scheme(path) in ("", "file") and not any(path == one or path.startswith(f"{one}/") for one in folders):
            raise ConfigError(
                f"{path}: a folder of this machine, which pods do not have. Use an object store (s3://, gs://, az://), "
                "or a volume: `claims: {FOLDER: PERSISTENT_VOLUME_CLAIM}` in the file given as --overlay."
            )


def _cluster(
    head: Machines,
    groups: Sequence[Machines],
    profile: Profile,
    image: str,
    labels: Mapping[str, str],
    account: str,
    config_map: str | None = None,
) -> Manifest:
    spec: Manifest = {
        "rayVersion": importlib.metadata.version("ray"),
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": profile.autoscale,
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0", "num-gpus": "0", "dashboard-host": "0.0.0.0", **_storage()},
            "template": head_pod(head, profile, image, labels, config_map),
        },
        "workerGroupSpecs": [_group(one, profile, image, labels, account) for one in groups],
    }
    if profile.autoscale:
        spec["autoscalerOptions"] = autoscaler_options()
    return spec


def _job_labels(work: Work) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "raymill",
        "app.kubernetes.io/part-of": "raymill",
        RUN_ID: work.run_id,
        KIND: work.kind,
    }


def _fitted(machine: Machines, profile: Profile, all_at_once: bool) -> Machines:
    """The same work on machines of at most the profile's CPUs or GPUs, and no more of them than it allows."""
    cpus, gpus = profile.cpus or machine.cpus, profile.gpus or machine.gpus
    fitted = machine.resized(min(cpus, machine.cpus), min(gpus, machine.gpus))
    reasons, sizes = dict(fitted.reasons), {"memory": fitted.memory, "disk": fitted.disk}
    for name, factor in (("memory", profile.memory_factor), ("disk", profile.disk_factor)):
        if factor != 1:
            sizes[name] = whole_gib(factor * sizes[name])
            reasons[name] = f"{name}_factor {factor:g} of overlay {profile.name}; planned: {reasons.get(name, '')}"
    fitted = replace(fitted, memory=sizes["memory"], disk=sizes["disk"], reasons=reasons)
    if all_at_once or not profile.machines or fitted.most <= profile.machines:
        return fitted  # a training needs all its workers; curate takes longer with fewer
    reasons = {**reasons, "most": f"machines of overlay {profile.name}; {fitted.most} wanted"}
    return replace(fitted, least=min(fitted.least, profile.machines), most=profile.machines, reasons=reasons)


def _group(machine: Machines, profile: Profile, image: str, labels: Mapping[str, str], account: str) -> Manifest:
    least = machine.least if profile.autoscale else machine.most
    group: Manifest = {
        "groupName": machine.name,
        "replicas": least,
        "minReplicas": least,
        "maxReplicas": machine.most,
        "rayStartParams": _storage(),
        "template": worker_pod(machine, profile, image, labels, account),
    }
    if profile.autoscale:
        group["idleTimeoutSeconds"] = _IDLE_S["gpu" if machine.gpus else "cpu"]
    return group


def _storage() -> dict[str, str]:
    return {"object-store-memory": str(OBJECT_STORE), "object-spilling-directory": "/spill"}


def autoscaler_options() -> Manifest:
    """Ray's autoscaler, version 2, as a container that meets Pod Security "restricted"."""
    amounts = {"cpu": "500m", "memory": "1Gi", "ephemeral-storage": "1Gi"}
    return {
        "version": "v2",  # KubeRay takes v1 unless it is named
        "upscalingMode": "Default",
        "idleTimeoutSeconds": _IDLE_S["cpu"],
        "resources": {"requests": amounts, "limits": dict(amounts)},
        "securityContext": RESTRICTED_CONTAINER,
        # KubeRay would add a volume of unlimited size.
        "volumeMounts": [{"name": "ray", "mountPath": "/tmp/ray"}, {"name": "scratch", "mountPath": "/tmp"}],
    }


def as_documents(*manifests: Mapping[str, Any]) -> list[Manifest]:
    """Copies of manifests in which no two parts are one object, so that their YAML has no anchors."""
    return [json.loads(json.dumps(one)) for one in manifests]


# ---- pods ----


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
        "command": ["python", "-m", "raymill.cluster.kuberay.driver_log", "/tmp/ray", str(_GCS_PORT)],
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
        # One zone: workers exchange gradients every step, and traffic between zones is slow and costs money.
        zone = {
            "labelSelector": {"matchLabels": dict(metadata["labels"])},
            "topologyKey": "topology.kubernetes.io/zone",
        }
        spec["affinity"] = {"podAffinity": _prefer("podAffinityTerm", zone)}
        metadata["annotations"] = dict(_NOT_MOVED)
    elif profile.spot:
        spec["tolerations"] = [
            {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"}
            for key, value in profile.spot_taints.items()
        ]
        # Preferred, not required: without free spot nodes the pods start on others.
        wanted = [{"key": key, "operator": "In", "values": [value]} for key, value in profile.spot_labels.items()]
        spec["affinity"] = {"nodeAffinity": _prefer("preference", {"matchExpressions": wanted})}
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
        # Ray repeats a task without limit after an out-of-memory kill; Raymill counts the tries of its units.
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


def _prefer(kind: str, term: Manifest) -> Manifest:
    """An affinity that is not required."""
    return {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, kind: term}]}


def _gib(size: int) -> str:
    return f"{-(-size // GIB)}Gi"


# ---- the verb ----


def render(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="settings, YAML or JSON, of any kind")],
    overlay: Annotated[str, typer.Option(help=f"{', '.join(OVERLAYS)}, or a YAML file that extends one")],
    override: Annotated[list[str] | None, typer.Option("-o", help="change one setting: key.sub=value")] = None,
    image: Annotated[str | None, typer.Option(help="REPOSITORY@sha256:DIGEST; default: the overlay's image")] = None,
    namespace: Annotated[str | None, typer.Option(help="namespace of the objects; default: the overlay's")] = None,
    within: Annotated[
        str | None, typer.Option(help="wanted duration, as in 90m or 4h; decides how many machines are requested")
    ] = None,
) -> None:
    """Print the ConfigMap and the RayJob of a config, as YAML for `kubectl apply`.

    Lists the inputs, and finds the same run id and machines as `raymill submit --to kuberay`.
    """
    if (found := render_config(config, override, overlay, image, namespace, within)).finished:
        print(f"note: {found.output} has this result already; the job would do nothing", file=sys.stderr)
    print(found, end="")


class Rendered(Text):
    """Kubernetes objects as YAML. output: of the run. finished: whether its result is there already."""

    output: str
    finished: bool


def render_config(
    config: AnyConfig,
    override: Changes = None,
    overlay: str = "",
    image: str | None = None,
    namespace: str | None = None,
    within: str | None = None,
    **settings: Any,
) -> Rendered:
    """The ConfigMap and the RayJob of a config, as YAML for `kubectl apply`. Creates nothing.

    Args:
        config: a file, a dict, or a config object, of any kind.
        override: changes of single settings, as in {"execution.attempts": 5}.
        overlay: kind, eks, gke, onprem-kueue, or a YAML file that extends one.
        image: REPOSITORY@sha256:DIGEST; None: the overlay's image.
        namespace: of the objects; None: the overlay's.
        within: wanted duration, as in 90m or 4h; decides how many machines are requested.
        settings: settings that replace those of the config.

    Raises:
        UserError: the config or an option is wrong, or an input is missing.
    """
    work = work_of(config, override, None, within, settings=settings)
    images = {"train_image" if work.all_at_once else "image": image}
    found = Rendered(rendered(work, profile_of(overlay, namespace=namespace, **images)))
    found.output, found.finished = work.output, work.finished
    return found


def rendered(work: Work, profile: Profile) -> str:
    """The ConfigMap and the RayJob of a config's first attempt, as YAML."""
    name = work.run_id
    return as_yaml(as_documents(build_config_map(work, name, profile), build_rayjob(work, name, profile)))


def as_yaml(documents: list[dict]) -> str:
    """YAML documents; text of several lines as blocks."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as a block."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)
