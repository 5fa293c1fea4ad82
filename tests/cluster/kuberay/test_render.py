"""Rendering: a RayJob follows from a config's work and an overlay; what pods could not do is refused."""

import json
from dataclasses import replace

import pytest
import yaml

from raymill.cluster.cli import main
from raymill.cluster.errors import ConfigError
from raymill.cluster.kuberay.profiles import OVERLAYS, POD_FOLDERS, Profile, profile_of
from raymill.cluster.kuberay.rayjob import build_config_map, build_raycluster, build_rayjob, rendered
from raymill.cluster.nodes import Node, without_accelerators
from raymill.cluster.submit.work import GIB
from tests.support.works import CURATE, IMAGE, TRAIN, finished

EKS = replace(OVERLAYS["eks"], image=IMAGE, train_image=IMAGE)


def group(work, profile):
    (found,) = build_rayjob(work, work.run_id, profile)["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    return found, found["template"]["spec"]["containers"][0]["resources"]["limits"]


def test_machines_of_a_job_are_those_of_its_work():
    found, limits = group(CURATE, replace(EKS, cpus=None))
    assert (found["minReplicas"], found["maxReplicas"]) == (1, 8)
    assert limits == {"cpu": "16", "memory": "40Gi", "ephemeral-storage": "60Gi"}
    annotations = build_rayjob(CURATE, "x", EKS)["metadata"]["annotations"]
    assert annotations["raymill.io/reason-cpu-most"] == "8: 100 GB of text"


def test_machines_are_no_larger_than_those_of_the_overlay():
    found, limits = group(CURATE, replace(EKS, cpus=4))
    assert (limits["cpu"], found["maxReplicas"]) == ("4", 32)
    assert int(limits["memory"].removesuffix("Gi")) * GIB >= 10 * GIB, "the largest task fits"
    found, limits = group(TRAIN, replace(EKS, gpus=1))
    assert (limits["nvidia.com/gpu"], limits["cpu"], found["maxReplicas"]) == ("1", "4", 16)
    assert group(TRAIN, replace(EKS, gpus=16))[1]["nvidia.com/gpu"] == "8", "they are not made larger"


def test_the_config_in_the_config_map_equals_the_one_of_the_work_and_mounted_where_the_job_reads_it():
    config_map, job = build_config_map(CURATE, "web-1", EKS), build_rayjob(CURATE, "web-1", EKS)
    assert json.loads(config_map["data"]["config.json"]) == CURATE.config and config_map["immutable"]
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    mounted = {one["name"]: one["mountPath"] for one in head["containers"][0]["volumeMounts"]}
    (volume,) = [one for one in head["volumes"] if "configMap" in one]
    assert volume["configMap"]["name"] == config_map["metadata"]["name"]
    assert job["spec"]["entrypoint"] == f"raymill curate {mounted[volume['name']]}/config.json"


def test_workers_of_a_training_prefer_one_zone_and_those_of_a_curation_spot_machines():
    def worker(work, profile):
        template = group(work, profile)[0]["template"]
        return template["metadata"]["labels"], template["spec"]["affinity"], template["spec"]["tolerations"]

    labels, affinity, tolerations = worker(TRAIN, EKS)
    (term,) = affinity.pop("podAffinity")["preferredDuringSchedulingIgnoredDuringExecution"]
    assert affinity == {} and term["podAffinityTerm"] == {
        "labelSelector": {"matchLabels": labels}, "topologyKey": "topology.kubernetes.io/zone"
    }  # fmt: skip
    assert tolerations == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    spot = replace(EKS, spot=True, spot_labels={"kind": "spot"}, spot_taints={"taint": "yes"})
    _, affinity, tolerations = worker(CURATE, spot)
    (term,) = affinity.pop("nodeAffinity")["preferredDuringSchedulingIgnoredDuringExecution"]
    wanted = [{"key": "kind", "operator": "In", "values": ["spot"]}]
    assert affinity == {} and term["preference"] == {"matchExpressions": wanted}
    assert tolerations == [{"key": "taint", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}]


def test_all_machines_start_at_once_without_an_autoscaler():
    found, _ = group(CURATE, replace(OVERLAYS["onprem-kueue"], image=IMAGE))
    assert found["replicas"] == found["minReplicas"] == found["maxReplicas"]
    spec = build_rayjob(CURATE, "x", replace(OVERLAYS["onprem-kueue"], image=IMAGE))["spec"]
    assert "autoscalerOptions" not in spec["rayClusterSpec"] and spec["shutdownAfterJobFinishes"]


def test_an_overlay_may_give_workers_more_memory_and_disk_than_was_planned():
    _, limits = group(CURATE, replace(EKS, cpus=None, memory_factor=1.5, disk_factor=2.0))
    assert limits == {"cpu": "16", "memory": "60Gi", "ephemeral-storage": "120Gi"}


def test_only_gpu_pods_tolerate_gpu_nodes_and_only_cpu_pods_prefer_spot():
    cpu, _ = group(CURATE, EKS)
    gpu, _ = group(TRAIN, EKS)
    assert [one["key"] for one in cpu["template"]["spec"]["tolerations"]] == ["karpenter.sh/capacity-type"]
    assert [one["key"] for one in gpu["template"]["spec"]["tolerations"]] == ["nvidia.com/gpu"]


def ray_node(name: str, group: dict) -> Node:
    """A node of the group, as Ray describes it after KubeRay started it.

    KubeRay passes a container's limits on as --num-cpus, --memory and, if their name ends in `gpu`, --num-gpus, unless
    rayStartParams has these (ray-operator/controllers/ray/common/pod.go at v1.7.0).
    """
    limits, given = group["template"]["spec"]["containers"][0]["resources"]["limits"], group["rayStartParams"]
    gpus = sum(int(amount) for resource, amount in limits.items() if resource.endswith("gpu"))
    resources = {
        "CPU": float(given.get("num-cpus", limits["cpu"])),
        "GPU": float(given.get("num-gpus", gpus)),
        "memory": float(given.get("memory", int(limits["memory"].removesuffix("Gi")) * GIB)),
    }
    return Node.of(
        {"NodeID": name, "Resources": {key: value for key, value in resources.items() if value}, "Labels": {}}
    )


def test_units_stay_off_the_gpu_group_of_a_cluster_without_labels():
    """In the cluster for development both groups can take units."""
    cluster = build_raycluster("development", CURATE.head, [*CURATE.workers, *TRAIN.workers], EKS)["spec"]
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    nodes = [ray_node(name, group) for name, group in groups.items()]
    assert [(node.id, node.accelerated) for node in nodes] == [("cpu", False), ("gpu", True)]
    head = ray_node("head", cluster["headGroupSpec"])
    assert without_accelerators([head, *nodes], {"CPU": 1, "memory": GIB}) == {"ray.io/node-id": "!in(gpu)"}
    assert without_accelerators([head, nodes[1]], {"CPU": 1, "memory": GIB}) == {}, "the head takes no units"


@pytest.mark.parametrize(
    ("work", "profile", "message"),
    [
        (CURATE, replace(EKS, image=""), r"no image for kind curate\. Give image="),
        (CURATE, replace(EKS, image="raymill:latest"), "has no digest"),
        (CURATE, replace(EKS, image="raymill@sha256:" + "0" * 65), "its digest is not sha256: and 64 hex"),
        (CURATE, replace(EKS, image="raymill@sha256:1"), "its digest is not sha256: and 64 hex"),
        (replace(CURATE, output="/data/out"), EKS, r"/data/out: a folder of this machine.*claims"),
        (replace(CURATE, output="/data-2/out"), replace(EKS, claims={"/data": "c"}), "/data-2/out: a folder of this"),
        (replace(CURATE, must_exist=("/raw/a.parquet",)), EKS, "/raw/a.parquet: a folder of this machine"),
    ],
)
def test_what_pods_could_not_do_is_refused(work, profile, message):
    with pytest.raises(ConfigError, match=message):
        build_rayjob(work, "x", profile)


def test_a_volume_brings_a_folder_to_every_pod():
    local = replace(CURATE, output="/data/out", must_exist=("/data/raw/a.parquet",))
    job = build_rayjob(local, "x", replace(EKS, claims={"/data": "shared"}))["spec"]["rayClusterSpec"]
    for template in (job["headGroupSpec"]["template"], job["workerGroupSpecs"][0]["template"]):
        assert {"name": "claim-shared", "mountPath": "/data"} in template["spec"]["containers"][0]["volumeMounts"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queue": "q", "clean_up": "shutdown"}, "queue q needs autoscale: false"),
        ({"queue": "q", "autoscale": False}, "and clean_up: shutdown"),
        ({"scheduler": "volcano"}, "needs autoscale: false"),
        ({"grace_s": 20}, "leaves Ray 10 s to drain"),
        ({"claims": {"/tmp": "a"}}, "overlay mine, claims, /tmp: pods have other files there"),
        ({"claims": {"/tmp/ray/": "a"}}, "/tmp/ray/: pods have other files there"),
        ({"claims": {"/usr/lib": "a"}}, "/usr/lib: pods have other files there"),
        ({"claims": {"/": "a"}}, "/: not a folder that a volume can have; wanted an absolute path below /"),
        ({"claims": {"data": "a"}}, "data: not a folder that a volume can have"),
        ({"claims": {"/data/../tmp": "a"}}, "not a folder that a volume can have"),
        ({"claims": {"/data": "Bad Name!"}}, "'Bad Name!' is not the name of a PersistentVolumeClaim"),
        ({"claims": {"/data": "a", "/data/": "b"}}, "/data is given twice"),
        *(
            ({"namespace": name}, "is not the name of a namespace")
            for name in ("", "a b", "../x", "-x", "a\n", "A", "x" * 64)
        ),
    ],
)
def test_settings_that_exclude_each_other_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        Profile("mine", **changes)


@pytest.mark.parametrize("field", ["cpus", "gpus", "machines", "memory_factor", "disk_factor", "deadline_s", "retries"])
@pytest.mark.parametrize("value", ["-1", ".nan", ".inf", "1e30"])
def test_numbers_that_no_machine_has_are_refused_with_their_field(field, value, tmp_path):
    (file := tmp_path / "ours.yaml").write_text(f"extends: kind\n{field}: {value}\n")
    with pytest.raises(ConfigError, match=f"{field}: "):
        profile_of(str(file))


def test_the_folders_that_claims_may_not_have_are_those_of_the_pods():
    job = build_rayjob(CURATE, "x", EKS)["spec"]["rayClusterSpec"]
    pods = [job["headGroupSpec"], *job["workerGroupSpecs"]]
    containers = [one for pod in pods for one in pod["template"]["spec"]["containers"]]
    assert {mount["mountPath"] for one in containers for mount in one["volumeMounts"]} == set(POD_FOLDERS)


def at(found, *keys):
    for key in keys:
        found = found[key]
    return found


HEAD, WORKERS = ("rayClusterSpec", "headGroupSpec"), ("rayClusterSpec", "workerGroupSpecs", 0)
HEAD_POD, WORKER_POD = (*HEAD, "template", "spec"), (*WORKERS, "template", "spec")
HEAD_LIMITS = (*HEAD_POD, "containers", 0, "resources", "limits")
NODES = {"a": "b"}


@pytest.mark.parametrize(
    ("work", "changes", "where", "value"),
    [
        (CURATE, {"head_cpus": 3}, (*HEAD_LIMITS, "cpu"), "3"),
        (CURATE, {"head_memory_gib": 17}, (*HEAD_LIMITS, "memory"), "17Gi"),
        (CURATE, {"head_nodes": NODES}, (*HEAD_POD, "nodeSelector"), NODES),
        (CURATE, {"cpu_nodes": NODES, "gpu_nodes": {}}, (*WORKER_POD, "nodeSelector"), NODES),
        (TRAIN, {"gpu_nodes": NODES, "cpu_nodes": {}}, (*WORKER_POD, "nodeSelector"), NODES),
        (CURATE, {"machines": 3}, (*WORKERS, "maxReplicas"), 3),
        (CURATE, {"machines": 3, "cpus": 4}, (*WORKERS, "minReplicas"), 3),  # 4 smaller ones were the least
        (TRAIN, {"machines": 1}, (*WORKERS, "maxReplicas"), 2),  # a training needs all its workers
        (CURATE, {"grace_s": 77}, (*WORKER_POD, "terminationGracePeriodSeconds"), 77),
        (CURATE, {"grace_s": 77}, (*HEAD_POD, "terminationGracePeriodSeconds"), 120),  # a driver needs 90 s
        (CURATE, {"grace_s": 130}, (*HEAD_POD, "terminationGracePeriodSeconds"), 130),
        (CURATE, {}, ("rayClusterSpec", "authOptions"), {"mode": "token"}),
        (CURATE, {"deadline_s": 5}, ("activeDeadlineSeconds",), 5),
        (CURATE, {"retries": 7}, ("backoffLimit",), 7),
        (CURATE, {"autoscale": False}, (*HEAD_POD, "automountServiceAccountToken"), False),
        (CURATE, {}, (*WORKER_POD, "containers", 0, "image"), "cpu@" + IMAGE),
        (TRAIN, {}, (*WORKER_POD, "containers", 0, "image"), "gpu@" + IMAGE),
        (TRAIN, {}, (*HEAD_POD, "containers", 1, "image"), "gpu@" + IMAGE),
        (CURATE, {"secret": "keys"}, (*WORKER_POD, "containers", 0, "envFrom", 1, "secretRef", "name"), "keys"),
        (CURATE, {"secret": "keys"}, (*HEAD_POD, "containers", 0, "envFrom", 1, "secretRef", "name"), "keys"),
    ],
)
def test_each_field_of_an_overlay_reaches_the_job(work, changes, where, value):
    changes = {"tags": True, "image": "cpu@" + IMAGE, "train_image": "gpu@" + IMAGE, "cpus": None} | changes
    profile = replace(EKS, **changes)
    assert at(build_rayjob(work, "x", profile)["spec"], *where) == value


def test_a_number_of_the_overlay_is_named_as_the_reason():
    profile = replace(EKS, machines=3, head_cpus=2, memory_factor=1.5, cpus=None)
    annotations = build_rayjob(CURATE, "x", profile)["metadata"]["annotations"]
    enough = build_rayjob(CURATE, "x", replace(profile, machines=8, head_memory_gib=9))["metadata"]["annotations"]
    assert enough["raymill.io/reason-cpu-most"] == "8: 100 GB of text"
    assert enough["raymill.io/reason-head-memory"] == "head_memory_gib of overlay eks"
    assert annotations["raymill.io/reason-cpu-most"] == "machines of overlay eks; 8 wanted"
    assert annotations["raymill.io/reason-head-cpus"] == "head_cpus of overlay eks"
    assert annotations["raymill.io/reason-cpu-memory"].startswith("memory_factor 1.5 of overlay eks; planned: ")


def test_a_queue_and_a_scheduler_are_labels_of_the_job():
    alone = replace(EKS, autoscale=False)
    labels = build_rayjob(CURATE, "x", replace(alone, queue="q", clean_up="shutdown"))["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "q" and "volcano.sh/queue-name" not in labels
    labels = build_rayjob(CURATE, "x", replace(alone, scheduler="volcano"))["metadata"]["labels"]
    assert labels["ray.io/gang-scheduling-enabled"] == "true" and "kueue.x-k8s.io/queue-name" not in labels


def test_a_file_extends_an_overlay(tmp_path):
    (file := tmp_path / "mine.yaml").write_text(f"extends: eks\nimage: {IMAGE}\ngpus: 8\nclaims: {{/data: shared}}\n")
    found = profile_of(str(file), namespace="team")
    assert (found.image, found.gpus, found.namespace, found.spot) == (IMAGE, 8, "team", True)
    again = profile_of(str(file), image="other", namespace=None)
    assert (again.image, again.namespace, again.gpus) == ("other", "raymill", 8), "a word of the command comes first"
    gke = profile_of("gke", namespace="team", image=None)
    assert gke == replace(OVERLAYS["gke"], namespace="team")
    file.write_text("extends: eks\nimages: x\n")
    with pytest.raises(ConfigError, match=r"images: no such field\. Did you mean image\?"):
        profile_of(str(file))
    file.write_text("extends: eks\ngpus: many\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml, gpus: Input should be a valid integer"):
        profile_of(str(file))
    file.write_text("extends: eks\nhead_nodes: {token: ghp_abcdefghijklmnopqrstuvwxyz}\n")
    with pytest.raises(ConfigError, match=r"head_nodes\.token: holds a secret .* Put it into a Secret") as raised:
        profile_of(str(file))
    assert "abcdefghij" not in str(raised.value)
    for content in ("image: x\n", "extends: gks\n", "- eks\n"):
        file.write_text(content)
        with pytest.raises(ConfigError, match=r"mine\.yaml: wanted `extends:` with one of kind, eks, gke, onprem"):
            profile_of(str(file))
    with pytest.raises(ConfigError, match=r"no such overlay\. Did you mean gke"):
        profile_of("gks")


def test_render_prints_what_submit_creates(tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.jsonl").write_text(json.dumps({"text": "A text."}) + "\n")
    inputs = [{"path": str(tmp_path / "raw")}]
    config = {"kind": "curate", "name": "web", "inputs": inputs, "output": str(tmp_path / "out")}
    (tmp_path / "curate.yaml").write_text(yaml.safe_dump(config))
    overlay = {"extends": "eks", "claims": {str(tmp_path): "shared"}, "image": IMAGE}
    (tmp_path / "overlay.yaml").write_text(yaml.safe_dump(overlay))
    with pytest.raises(SystemExit) as done:
        main(["render", str(tmp_path / "curate.yaml"), "--overlay", str(tmp_path / "overlay.yaml"), "--within", "2h"])
    config_map, job = yaml.safe_load_all(capsys.readouterr().out)
    assert done.value.code == 0 and job["metadata"]["name"].startswith("web-")
    assert json.loads(config_map["data"]["config.json"])["output"] == str(tmp_path / "out")
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == "2.60.0"


@pytest.mark.parametrize(("work", "kind"), [(CURATE, "cpu"), (TRAIN, "gpu")])
def test_the_words_of_render_reach_the_job(work, kind, monkeypatch, capsys):
    given = []
    monkeypatch.setattr(
        "raymill.cluster.kuberay.rayjob.work_of", lambda *words, settings: given.append(words) or finished(work)
    )
    words = ["-o", "a=b", "--overlay", "eks", "--image", IMAGE, "--namespace", "team", "--within", "2h"]
    with pytest.raises(SystemExit) as done:
        main(["render", "c.yaml", *words])
    shown = capsys.readouterr()
    assert given == [("c.yaml", ["a=b"], None, "2h")] and not done.value.code
    assert shown.err == f"note: {work.output} has this result already; the job would do nothing\n"
    config_map, job = yaml.safe_load_all(shown.out)
    assert config_map["metadata"]["namespace"] == job["metadata"]["namespace"] == "team"
    assert job["metadata"]["name"] + "-config" == config_map["metadata"]["name"] == f"{work.run_id}-config"
    (workers,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert workers["groupName"] == kind and workers["template"]["spec"]["containers"][0]["image"] == IMAGE


def test_yaml_is_the_objects_without_anchors():
    text = rendered(CURATE, EKS)
    assert list(yaml.safe_load_all(text))[1] == json.loads(json.dumps(build_rayjob(CURATE, CURATE.run_id, EKS)))
    assert "&id" not in text and "*id" not in text
