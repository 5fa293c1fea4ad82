"""Checks of the rules that KubeRay's operator, 1.7, applies to fields together; the CRDs do not have them.

The operator accepts the object and sets its state to ValidationFailed. Source: ray-operator/controllers/ray/utils/
validation.go at v1.7.0.
"""

import importlib.metadata
import math
import re
from itertools import pairwise

from tests.deploy.check import Broken, Check, Objects
from tests.deploy.manifests import environment, first, main_of, of_kind, ray_clusters
from tests.support.kuberay_operator import due_deletions

_LONGEST = {"RayJob": 47, "RayCluster": 53}
_ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")
_SIZES = {"num-cpus", "num-gpus", "memory", "resources"}
# Fields of alpha gates, which operator/values.yaml leaves off. rocksdb has values of its own.
_GATED = {"networkPolicy", "tlsOptions", "historyServerOptions"}


# How a job can end: jobStatus, jobDeploymentStatus, and status.reason or what happened. After DeadlineExceeded and
# JobStatusCheckTimeoutExceeded, jobStatus is what it was.
ENDS = (
    ("SUCCEEDED", "Complete", "success"),
    ("FAILED", "Failed", "AppFailed"),
    ("FAILED", "Failed", "JobDeploymentStatusTransitionGracePeriodExceeded"),
    ("", "Failed", "PreRunningDeadlineExceeded"),
    *((status, "Failed", "DeadlineExceeded") for status in ("", "PENDING", "RUNNING")),
    *((status, "Failed", "JobStatusCheckTimeoutExceeded") for status in ("", "PENDING", "RUNNING")),
)


def _named(owner):
    return f"{owner['kind']} {owner['metadata']['name']}"


def names(objects: Objects) -> list[str]:
    found = []
    for one in of_kind(objects, *_LONGEST):
        name, longest = one["metadata"]["name"], _LONGEST[one["kind"]]
        if len(name) > longest or not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
            found.append(f"{_named(one)}: a name is a DNS label of at most {longest} characters")
    for owner, spec in ray_clusters(objects):
        groups = [group["groupName"] for group in spec["workerGroupSpecs"]]
        found += [f"{_named(owner)}: two groups {name}" for name in {one for one in groups if groups.count(one) > 1}]
    return found


def clean_up(objects: Objects) -> list[str]:
    found = []
    for job in of_kind(objects, "RayJob"):
        spec = job["spec"]
        rules = spec.get("deletionStrategy", {}).get("deletionRules", [])
        shutdown = spec.get("shutdownAfterJobFinishes", False)
        if bool(rules) == shutdown:
            found.append(f"{_named(job)}: wanted deletionRules or shutdownAfterJobFinishes, and not both")
        if spec.get("ttlSecondsAfterFinished") and not shutdown:
            found.append(f"{_named(job)}: ttlSecondsAfterFinished needs shutdownAfterJobFinishes")
        by_status: dict[str, list[tuple[int, int]]] = {}
        for rule in rules:
            condition = rule["condition"]
            order = (_ORDER.index(rule["policy"]), condition.get("ttlSeconds", 0))
            by_status.setdefault(condition.get("jobStatus") or condition["jobDeploymentStatus"], []).append(order)
        for status, order in by_status.items():
            if len({policy for policy, _ in order}) < len(order):
                found.append(f"{_named(job)}: two rules of one policy for {status}")
            if any(later < earlier for (_, earlier), (_, later) in pairwise(sorted(order))):
                found.append(f"{_named(job)}: rules for {status} delete the job before its cluster")
        for job_status, deployment_status, reason in ENDS:
            status = {"jobStatus": job_status, "jobDeploymentStatus": deployment_status}
            deleted = due_deletions(spec, status, math.inf)
            if not any(policy in ("DeleteCluster", "DeleteSelf") for policy in deleted):
                found.append(f"{_named(job)}: nothing deletes its cluster after {reason}")
        workers_only = any(rule["policy"] == "DeleteWorkers" for rule in rules)
        if workers_only and spec["rayClusterSpec"].get("enableInTreeAutoscaling"):
            found.append(f"{_named(job)}: DeleteWorkers is not allowed with the autoscaler")
        if spec.get("suspend") and not shutdown:
            found.append(f"{_named(job)}: suspend needs shutdownAfterJobFinishes")
        if spec.get("clusterSelector") and (spec.get("backoffLimit") or spec.get("suspend")):
            found.append(f"{_named(job)}: clusterSelector excludes backoffLimit and suspend")
    return found


def submission(objects: Objects) -> list[str]:
    found = []
    for job in of_kind(objects, "RayJob"):
        spec = job["spec"]
        if spec.get("submissionMode") != "HTTPMode":
            found.append(
                f"{_named(job)}: submissionMode {spec.get('submissionMode')}: only HTTPMode submits again after "
                "the head was lost, and needs no pod of the submitter"
            )
        if "submitterPodTemplate" in spec or "submitterConfig" in spec:
            found.append(f"{_named(job)}: HTTPMode has no submitter to configure")
        if spec.get("backoffLimit", 0) < 2:
            found.append(f"{_named(job)}: backoffLimit below 2: a lost node ends the job")
        found += [
            f"{_named(job)}: no {one}, so it may wait forever"
            for one in ("preRunningDeadlineSeconds", "activeDeadlineSeconds")
            if not spec.get(one)
        ]
        if "runtimeEnvYAML" in spec:
            found.append(f"{_named(job)}: runtimeEnvYAML installs packages at the start of every job; use the image")
    return found


def groups(objects: Objects) -> list[str]:
    found = []
    for owner, spec in ray_clusters(objects):
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            name = f"{_named(owner)}, {group.get('groupName', 'head')}"
            parameters = group["rayStartParams"]
            if group.get("resources") and _SIZES & parameters.keys():
                found.append(f"{name}: resources and {_SIZES & parameters.keys()} of rayStartParams exclude each other")
            if "labels" in parameters:
                found.append(f"{name}: labels of rayStartParams are refused; use labels of the group")
        for group in spec["workerGroupSpecs"]:
            if not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] < 1000:
                found.append(
                    f"{_named(owner)}, {group['groupName']}: replicas are not between minReplicas and a finite "
                    "maxReplicas"
                )
    return found


def autoscaler(objects: Objects) -> list[str]:
    found = []
    for owner, spec in ray_clusters(objects):
        on, version = spec.get("enableInTreeAutoscaling", False), spec.get("autoscalerOptions", {}).get("version")
        if on and version != "v2":
            found.append(
                f"{_named(owner)}: the autoscaler is of version {version}; KubeRay takes v1 unless v2 is named"
            )
        if not on and "autoscalerOptions" in spec:
            found.append(f"{_named(owner)}: autoscalerOptions without enableInTreeAutoscaling")
        templates = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
        if on and any(one["template"]["spec"].get("restartPolicy") not in (None, "Never") for one in templates):
            found.append(f"{_named(owner)}: autoscaler v2 wants restartPolicy Never")
        if version != "v2" and any({"idleTimeoutSeconds", "priority"} & group.keys() for group in templates):
            found.append(f"{_named(owner)}: idleTimeoutSeconds and priority of a group need autoscaler v2")
    return found


def authentication(objects: Objects) -> list[str]:
    found = []
    for owner, spec in ray_clusters(objects):
        version = str(spec.get("rayVersion", ""))
        if spec.get("authOptions", {}).get("mode") != "token":
            found.append(f"{_named(owner)}: authOptions.mode is not token: whoever reaches the dashboard runs code")
        if version != importlib.metadata.version("ray"):
            found.append(
                f"{_named(owner)}: rayVersion {version or 'is missing'}; the client has "
                f"{importlib.metadata.version('ray')}"
            )
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            if environment(main_of(group)).get("RAY_AUTH_MODE") != "token":
                found.append(f"{_named(owner)}: without RAY_AUTH_MODE, Ray starts open under an older operator")
        if spec.get("authOptions", {}).get("enableK8sTokenAuth") and owner["kind"] == "RayJob":
            found.append(f"{_named(owner)}: enableK8sTokenAuth is not allowed in a RayJob")
    return found


def gates(objects: Objects) -> list[str]:
    found = []
    for owner, spec in ray_clusters(objects):
        found += [
            f"{_named(owner)}: {name} needs an alpha gate, which operator/values.yaml leaves off"
            for name in sorted(_GATED & spec.keys())
        ]
        fault_tolerance = spec.get("gcsFaultToleranceOptions", {})
        if fault_tolerance and owner["kind"] == "RayJob":
            found.append(f"{_named(owner)}: GCS fault tolerance does not save a driver, and it runs on the head")
        if fault_tolerance.get("backend") == "rocksdb" and any(name.startswith("redis") for name in fault_tolerance):
            found.append(f"{_named(owner)}: rocksdb excludes the settings of redis")
        storage = fault_tolerance.get("storage", {})
        if "claimName" in storage and {"size", "storageClassName", "accessModes"} & storage.keys():
            found.append(f"{_named(owner)}: claimName excludes size, storageClassName and accessModes")
    return found


def kueue(objects: Objects) -> list[str]:
    found = []
    queues = {one["metadata"]["name"] for one in of_kind(objects, "LocalQueue")}
    for owner, spec in ray_clusters(objects):
        queue = owner["metadata"].get("labels", {}).get("kueue.x-k8s.io/queue-name")
        if queues and queue not in queues:
            found.append(f"{_named(owner)}: queue {queue}; there are {', '.join(queues)}")
        if queue is None:
            continue
        if spec.get("enableInTreeAutoscaling"):
            found.append(f"{_named(owner)}: Kueue admits a whole job, which the autoscaler would change")
        if owner["kind"] == "RayJob" and not owner["spec"].get("shutdownAfterJobFinishes"):
            found.append(f"{_named(owner)}: Kueue suspends jobs, which needs shutdownAfterJobFinishes")
        if len(spec["workerGroupSpecs"]) > 17:
            found.append(f"{_named(owner)}: Kueue takes at most 17 groups")
    return found


def _job(objects):
    return first(objects, "RayJob")["spec"]


def _cluster(objects):
    return _job(objects)["rayClusterSpec"]


CHECKS = (
    Check(
        "names are short enough for the objects that the operator derives from them",
        names,
        (
            Broken(
                "a name of 48 characters", lambda o: first(o, "RayJob")["metadata"].update(name="a" * 48), "at most 47"
            ),
            Broken(
                "two groups of one name",
                lambda o: _cluster(o)["workerGroupSpecs"].append(_cluster(o)["workerGroupSpecs"][0]),
                "two groups",
            ),
        ),
    ),
    Check(
        "clean-up is by deletion rules in a possible order, or by shutdown",
        clean_up,
        (
            Broken("both styles", lambda o: _job(o).update(shutdownAfterJobFinishes=True), "and not both"),
            Broken("neither", lambda o: _job(o).pop("deletionStrategy"), "and not both"),
            Broken(
                "a rule for what Ray reported, which a passed deadline does not change",
                lambda o: (
                    _job(o)["deletionStrategy"]["deletionRules"][1].update(
                        condition={"jobStatus": "FAILED", "ttlSeconds": 1}
                    )
                    or _job(o)["deletionStrategy"]["deletionRules"].pop()
                ),
                "after PreRunningDeadlineExceeded",
            ),
            Broken("ttl without shutdown", lambda o: _job(o).update(ttlSecondsAfterFinished=60), "needs shutdown"),
            Broken(
                "the job is deleted before its cluster",
                lambda o: _job(o)["deletionStrategy"]["deletionRules"][2]["condition"].update(ttlSeconds=1),
                "before its",
            ),
            Broken(
                "a rule twice",
                lambda o: _job(o)["deletionStrategy"]["deletionRules"].append(
                    _job(o)["deletionStrategy"]["deletionRules"][0]
                ),
                "two rules",
            ),
            Broken(
                "DeleteWorkers with the autoscaler",
                lambda o: _job(o)["deletionStrategy"]["deletionRules"][0].update(policy="DeleteWorkers"),
                "DeleteWorkers",
            ),
            Broken("suspend with deletion rules", lambda o: _job(o).update(suspend=True), "suspend needs"),
            Broken(
                "an existing cluster with retries",
                lambda o: _job(o).update(clusterSelector={"ray.io/cluster": "x"}),
                "clusterSelector excludes",
            ),
        ),
    ),
    Check(
        "jobs are submitted by the operator, with retries and deadlines",
        submission,
        (
            Broken("the default mode", lambda o: _job(o).pop("submissionMode"), "only HTTPMode"),
            Broken("a submitter pod", lambda o: _job(o).update(submitterConfig={"backoffLimit": 1}), "no submitter"),
            Broken("no retry", lambda o: _job(o).pop("backoffLimit"), "a lost node ends"),
            Broken("no deadline before running", lambda o: _job(o).pop("preRunningDeadlineSeconds"), "wait forever"),
            Broken("packages at run time", lambda o: _job(o).update(runtimeEnvYAML="pip: [x]"), "use the image"),
        ),
    ),
    Check(
        "sizes of groups are stated once, and replicas are within finite bounds",
        groups,
        (
            Broken(
                "resources beside num-cpus",
                lambda o: _cluster(o)["headGroupSpec"].update(resources={"CPU": "0"}),
                "exclude each other",
            ),
            Broken(
                "labels as a parameter of ray start",
                lambda o: _cluster(o)["workerGroupSpecs"][0]["rayStartParams"].update(labels="a=b"),
                "labels of the group",
            ),
            Broken(
                "no upper bound", lambda o: _cluster(o)["workerGroupSpecs"][0].update(maxReplicas=2147483647), "finite"
            ),
        ),
    ),
    Check(
        "the autoscaler is of version 2, and its settings stand with it alone",
        autoscaler,
        (
            Broken("no version", lambda o: _cluster(o)["autoscalerOptions"].pop("version"), "takes v1 unless"),
            Broken(
                "restartPolicy Always",
                lambda o: _cluster(o)["headGroupSpec"]["template"]["spec"].update(restartPolicy="Always"),
                "wants restartPolicy Never",
            ),
            Broken(
                "an idle time without autoscaler",
                lambda o: _cluster(o)["workerGroupSpecs"][0].update(idleTimeoutSeconds=1),
                "need autoscaler v2",
                world="kind",
            ),
            Broken(
                "options without autoscaler",
                lambda o: _cluster(o).update(enableInTreeAutoscaling=False),
                "without enable",
            ),
        ),
    ),
    Check(
        "token authentication is on, and rayVersion is the client's",
        authentication,
        (
            Broken("no authOptions", lambda o: _cluster(o).pop("authOptions"), "runs code"),
            Broken(
                "pods that start without a token",
                lambda o: main_of(_cluster(o)["headGroupSpec"])["env"].remove(
                    {"name": "RAY_AUTH_MODE", "value": "token"}
                ),
                "starts open",
            ),
            Broken("no rayVersion", lambda o: _cluster(o).pop("rayVersion"), "is missing"),
            Broken("another Ray", lambda o: _cluster(o).update(rayVersion="2.52.0"), "the client has"),
            Broken(
                "tokens of Kubernetes in a RayJob",
                lambda o: _cluster(o)["authOptions"].update(enableK8sTokenAuth=True),
                "not allowed in a RayJob",
            ),
        ),
    ),
    Check(
        "no field needs an alpha gate that the operator's values leave off",
        gates,
        (
            Broken("KubeRay's own network policy", lambda o: _cluster(o).update(networkPolicy={}), "alpha gate"),
            Broken(
                "fault tolerance in a job",
                lambda o: _cluster(o).update(gcsFaultToleranceOptions={"backend": "rocksdb"}),
                "does not save a driver",
            ),
            Broken(
                "rocksdb with redis",
                lambda o: first(o, "RayCluster")["spec"]["gcsFaultToleranceOptions"].update(redisAddress="x"),
                "excludes the settings of redis",
                world="with rocksdb-ft",
            ),
            Broken(
                "a claim with a size",
                lambda o: first(o, "RayCluster")["spec"]["gcsFaultToleranceOptions"]["storage"].update(claimName="x"),
                "claimName excludes",
                world="with rocksdb-ft",
            ),
        ),
    ),
    Check(
        "with Kueue, jobs name an existing queue, have a fixed size and can be suspended",
        kueue,
        (
            Broken(
                "a queue that is not there",
                lambda o: first(o, "LocalQueue")["metadata"].update(name="other"),
                "there are",
                world="onprem-kueue",
            ),
            Broken(
                "with the autoscaler",
                lambda o: _cluster(o).update(enableInTreeAutoscaling=True),
                "whole job",
                world="onprem-kueue",
            ),
            Broken(
                "with deletion rules",
                lambda o: _job(o).pop("shutdownAfterJobFinishes"),
                "suspends jobs",
                world="onprem-kueue",
            ),
            Broken(
                "18 groups",
                lambda o: _cluster(o).update(workerGroupSpecs=_cluster(o)["workerGroupSpecs"] * 18),
                "at most 17",
                world="onprem-kueue",
            ),
        ),
    ),
)
