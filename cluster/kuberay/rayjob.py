"""The RayJob and the ConfigMap of a config: what `raymill render` prints and `raymill submit --to kuberay` creates."""

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import cluster
from cluster.errors import ConfigError
from cluster.kuberay.pods import (
    CONFIG_FOLDER,
    LABEL,
    RESTRICTED_CONTAINER,
    TRAINER_ACCOUNT,
    WORKER_ACCOUNT,
    Manifest,
    head_pod,
    worker_pod,
)
from cluster.kuberay.profiles import Profile
from cluster.store import paths
from cluster.submit.work import GIB, OBJECT_STORE, Machines, Work, whole_gib

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
        "metadata": {"name": name + CONFIG, "namespace": profile.namespace, "labels": _labels(work)},
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
    image, labels = profile.image_of(work.kind), _labels(work)
    head = _head(work.head, profile)
    groups = [_fitted(one, work.kind, profile) for one in work.workers]
    account = TRAINER_ACCOUNT if work.kind == "train" else WORKER_ACCOUNT
    cluster_spec = _cluster(head, groups, profile, image, labels, account, name + CONFIG)
    annotations = {
        f"{LABEL}{FINGERPRINT}": work.config_fingerprint,
        f"{LABEL}{OUTPUT}": work.output,
        f"{LABEL}{VERSION}": cluster.__version__,
        **_reasons(head),
        **{key: value for group in groups for key, value in _reasons(group).items()},
    }
    spec: Manifest = {
        "entrypoint": " ".join(["raymill", work.verb, f"{CONFIG_FOLDER}/{CONFIG_FILE}", *work.options]),
        "jobId": name,
        # The operator submits and polls. After the loss of the head it submits again, and the run continues.
        "submissionMode": "HTTPMode",
        "backoffLimit": profile.retries,
        "preRunningDeadlineSeconds": _BEFORE_RUNNING_S,
        "activeDeadlineSeconds": profile.deadline_s,
        **_clean_up(profile),
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
    image = profile.image_of("train")
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": name, "namespace": profile.namespace, "labels": labels},
        "spec": _cluster(head, groups, profile, image, labels, TRAINER_ACCOUNT),
    }


def build_group(machine: Machines, profile: Profile) -> Manifest:
    """A group of workers to be added to a RayCluster for development."""
    labels = {"app.kubernetes.io/name": "raymill", "app.kubernetes.io/part-of": "raymill"}
    return _group(machine, profile, profile.image_of("train"), labels, TRAINER_ACCOUNT)


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


def _labels(work: Work) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "raymill",
        "app.kubernetes.io/part-of": "raymill",
        RUN_ID: work.run_id,
        KIND: work.kind,
    }


def _head(machine: Machines, profile: Profile) -> Machines:
    """The head's machine, with the numbers of the profile where it has some."""
    reasons = dict(machine.reasons)
    reasons |= {"cpus": f"head_cpus of overlay {profile.name}"} if profile.head_cpus else {}
    reasons |= {"memory": f"head_memory_gib of overlay {profile.name}"} if profile.head_memory_gib else {}
    memory = profile.head_memory_gib * GIB if profile.head_memory_gib else machine.memory
    return replace(machine, cpus=profile.head_cpus or machine.cpus, memory=memory, reasons=reasons)


def _fitted(machine: Machines, kind: str, profile: Profile) -> Machines:
    """The same work on machines of at most the profile's CPUs or GPUs, and no more of them than it allows."""
    cpus, gpus = profile.cpus or machine.cpus, profile.gpus or machine.gpus
    fitted = machine.resized(min(cpus, machine.cpus), min(gpus, machine.gpus))
    fitted = _enlarged(fitted, profile)
    if kind == "train" or not profile.machines or fitted.most <= profile.machines:
        return fitted  # a training needs all its workers; curate takes longer with fewer
    reasons = {**fitted.reasons, "most": f"machines of overlay {profile.name}; {fitted.most} wanted"}
    return replace(fitted, least=min(fitted.least, profile.machines), most=profile.machines, reasons=reasons)


def _enlarged(machine: Machines, profile: Profile) -> Machines:
    """The machine with the memory and disk that the profile's factors make of them."""
    reasons = dict(machine.reasons)
    sizes = {"memory": machine.memory, "disk": machine.disk}
    for name, factor in (("memory", profile.memory_factor), ("disk", profile.disk_factor)):
        if factor != 1:
            sizes[name] = whole_gib(factor * sizes[name])
            reasons[name] = f"{name}_factor {factor:g} of overlay {profile.name}; planned: {reasons.get(name, '')}"
    return replace(machine, memory=sizes["memory"], disk=sizes["disk"], reasons=reasons)


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


def _clean_up(profile: Profile) -> Manifest:
    if profile.clean_up == "shutdown":
        return {"shutdownAfterJobFinishes": True, "ttlSecondsAfterFinished": KEEP_FAILED_S}
    succeeded = {"jobStatus": "SUCCEEDED"}
    # jobStatus is what Ray answered last: empty or RUNNING for a job whose deadline has passed, or whose head is lost.
    failed = {"jobDeploymentStatus": "Failed"}
    rules = [
        ("DeleteCluster", succeeded, _KEEP_SUCCEEDED_S),
        ("DeleteCluster", failed, KEEP_FAILED_S),
        ("DeleteSelf", succeeded, KEEP_JOB_S),
        ("DeleteSelf", failed, KEEP_JOB_S),
    ]
    return {
        "deletionStrategy": {
            "deletionRules": [
                {"policy": policy, "condition": condition | {"ttlSeconds": seconds}}
                for policy, condition, seconds in rules
            ]
        }
    }


def _reasons(machine: Machines) -> dict[str, str]:
    return {f"{LABEL}reason-{machine.name}-{name}": text for name, text in machine.reasons.items()}


def as_documents(*manifests: Mapping[str, Any]) -> list[Manifest]:
    """Copies of manifests in which no two parts are one object, so that their YAML has no anchors."""
    return [json.loads(json.dumps(one)) for one in manifests]
