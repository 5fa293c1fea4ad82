"""The manifests in k8s/ without a cluster: every check passes on every overlay, and catches what it is for.

`python -m tests.deploy` lists the checks. Schemas of custom resources come from CRD_DIR (tests/deploy/schemas.py).
"""

import json
import re
import shutil
from dataclasses import replace

import pytest
import yaml
from setuptools import find_packages

from raymill.cluster.kuberay.profiles import OVERLAYS, Profile
from raymill.cluster.kuberay.rayjob import as_documents, build_config_map, build_rayjob
from raymill.cluster.submit.kuberay import RIGHTS
from tests.deploy import checks_access, checks_operator, checks_pods, checks_schema, checks_sizes
from tests.deploy.checks import CHECKS
from tests.deploy.checks_network import End, reaches, selects
from tests.deploy.manifests import K8S, OTHERS, first, job_file, kustomize, of_kind, pod_templates, worlds
from tests.deploy.schemas import HOW_TO, crds
from tests.deploy.written import manifests
from tests.support.kubectl_commands import GUIDE
from tests.support.works import CURATE, IMAGE, TRAIN

WORLDS = (*OVERLAYS, *(f"with {name}" for name in OTHERS))


@pytest.fixture(scope="module")
def built():
    return worlds()


def needs_crds(check):
    if check.needs_crds and not crds():
        pytest.skip(HOW_TO)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.what)
@pytest.mark.parametrize("world", WORLDS)
def test_manifests_pass(built, world, check):
    needs_crds(check)
    assert check.run(built[world]) == []


@pytest.mark.parametrize(
    ("check", "broken"), [(check, broken) for check in CHECKS for broken in check.broken], ids=lambda one: one.what
)
def test_broken_manifests_are_caught(built, check, broken):
    needs_crds(check)
    assert check.catches(broken, built[broken.world])


def test_written_manifests_are_what_render_prints():
    for path, text in manifests().items():
        assert path.read_text() == text, f"{path}: differs from what is rendered; run `make manifests`"


@pytest.mark.parametrize(
    "profile",
    [
        Profile("plain", autoscale=False),
        Profile("scaled", spot=True, spot_labels={"a": "b"}, spot_taints={"cloud.google.com/gke-spot": "true"}),
        Profile("gang", autoscale=False, scheduler="volcano"),
        Profile("volumes", autoscale=False, claims={"/data": "shared", "/models": "shared"}),
        Profile(
            "small", autoscale=False, cpus=2, gpus=1, machines=1, head_cpus=1, head_memory_gib=4, memory_factor=1.5
        ),
    ],
    ids=lambda profile: profile.name,
)
def test_jobs_of_any_profile_pass(built, profile):
    """Not only those in k8s/: whatever a file with `extends:` sets, the rules of pods and of the operator hold."""
    namespace = [one for one in built["kind"] if one["kind"] not in ("RayJob", "ConfigMap", "RayCluster")]
    whole = replace(profile, image=IMAGE, train_image=IMAGE)
    for work in (CURATE, TRAIN):
        jobs = as_documents(build_config_map(work, work.run_id, whole), build_rayjob(work, work.run_id, whole))
        for check in (*checks_schema.CHECKS, *checks_operator.CHECKS, *checks_pods.CHECKS, *checks_sizes.CHECKS):
            if crds() or not check.needs_crds:
                assert check.run([*namespace, *jobs]) == [], check.what


@pytest.fixture(scope="module")
def teams(tmp_path_factory):
    """Team -> its objects: each has a kustomization of its own over the same folders."""
    folder = tmp_path_factory.mktemp("teams")
    shutil.copytree(K8S, folder / "k8s")
    found = {}
    for team in ("team-a", "team-b"):
        (folder / "k8s" / team).mkdir()
        text = f"namespace: {team}\nresources: [../overlays/onprem-kueue, ../nightly]\n"
        (folder / "k8s" / team / "kustomization.yaml").write_text(text)
        found[team] = kustomize(folder / "k8s" / team)
    return found


def test_what_binds_a_team_is_of_its_own_namespace(teams):
    cluster_wide = ("ClusterQueue", "ResourceFlavor", "PriorityClass")
    for team, objects in teams.items():
        (binding,) = of_kind(objects, "RoleBinding")
        assert [one["namespace"] for one in binding["subjects"]] == [team]
        for one in objects:
            own = one["metadata"]["name"] if one["kind"] == "Namespace" else one["metadata"].get("namespace")
            assert own == team or one["kind"] in cluster_wide, one
        ((_, nightly),) = [pod for pod in pod_templates(objects) if pod[0].startswith("CronJob")]
        (container,) = nightly["spec"]["containers"]
        assert '--namespace "$NAMESPACE"' in container["args"][0]
        own = {"fieldRef": {"fieldPath": "metadata.namespace"}}
        assert {"name": "NAMESPACE", "valueFrom": own} in container["env"]
        assert "namespace: raymill" not in json.dumps(objects).replace('"', "")


@pytest.mark.parametrize(("overlay", "component"), [("gke", "gke-workload-identity"), ("eks", "irsa")])
def test_the_nightly_program_has_the_role_of_its_overlay(tmp_path, overlay, component):
    shutil.copytree(K8S, tmp_path / "k8s")
    nightly = tmp_path / "k8s" / "nightly" / "kustomization.yaml"
    nightly.write_text(nightly.read_text().replace("../components/irsa]", f"../components/{component}]"))
    (folder := tmp_path / "k8s" / "team").mkdir()
    (folder / "kustomization.yaml").write_text(f"namespace: team-b\nresources: [../overlays/{overlay}, ../nightly]\n")
    accounts = of_kind(kustomize(folder), "ServiceAccount")
    roles = {one["metadata"]["name"]: one["metadata"]["annotations"] for one in accounts}
    worker = roles.pop("raymill-worker")
    assert set(roles) == {"raymill-head", "raymill-trainer", "raymill-nightly"}
    (role,) = {json.dumps(one) for one in roles.values()}
    assert (json.dumps(worker) == role) == (overlay == "gke")  # on EKS it is one that cannot delete


def test_egress_may_be_closed_to_the_addresses_of_the_store(tmp_path):
    shutil.copytree(K8S, tmp_path / "k8s")
    (folder := tmp_path / "k8s" / "team").mkdir()
    (folder / "kustomization.yaml").write_text(
        "resources: [../overlays/eks]\ncomponents: [../components/closed-egress]\n"
    )
    worker = End("worker", {"app.kubernetes.io/part-of": "raymill", "raymill.io/role": "cpu"})
    store, elsewhere = End("the store", address="203.0.113.7"), End("elsewhere", address="198.51.100.1")
    for open_to, objects in ((True, kustomize(K8S / "overlays" / "eks")), (False, kustomize(folder))):
        assert reaches(objects, worker, store, 443)
        assert reaches(objects, worker, elsewhere, 443) is open_to


def test_only_the_workers_of_a_training_have_the_account_that_may_delete():
    for overlay in OVERLAYS:
        for kind, account in (("curate", "raymill-worker"), ("train", "raymill-trainer")):
            (job,) = of_kind(list(yaml.safe_load_all(job_file(overlay, kind).read_text())), "RayJob")
            groups = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
            assert {group["template"]["spec"]["serviceAccountName"] for group in groups} == {account}


def test_the_nightly_program_has_the_keys_that_jobs_have(teams):
    jobs = yaml.safe_load_all((K8S / "overlays/onprem-kueue/jobs/curate.yaml").read_text())
    problems = checks_access.store_credentials([*teams["team-a"], *jobs])
    assert not any("lacks the Secret" in one for one in problems)


def test_teams_share_cluster_wide_objects_and_the_queue_takes_the_jobs_of_both(teams):
    for kind in ("ClusterQueue", "ResourceFlavor", "PriorityClass"):
        specs = {team: [one.get("spec", one.get("value")) for one in of_kind(teams[team], kind)] for team in teams}
        assert specs["team-a"] == specs["team-b"] != []
    selector = first(teams["team-a"], "ClusterQueue")["spec"]["namespaceSelector"]
    assert all(selects(selector, first(objects, "Namespace")["metadata"]["labels"]) for objects in teams.values())
    assert not selects(selector, {"kubernetes.io/metadata.name": "default"})


def test_pods_of_one_team_cannot_reach_those_of_another(teams):
    (_, head), *_ = pod_templates(teams["team-a"])
    policies = json.loads(json.dumps(teams["team-a"]).replace('"team-a"', '"raymill"'))  # as `reaches` names its own
    labels = head["metadata"]["labels"]
    for port in (6379, 8265, 10001):
        assert not reaches(policies, End("b", labels, "team-b"), End("a", labels), port)
        assert not reaches(policies, End("a", labels), End("b", labels, "team-b"), port)


def test_the_role_for_people_suffices_for_every_command_of_the_guide(built):
    text = (K8S / "README.md").read_text()
    assert [command for command in GUIDE if command not in text] == []
    step_5 = text[text.index("### 5. A run") :]
    verbs = "get|describe|logs|delete|port-forward|exec|apply -f"
    commands = re.findall(rf"kubectl (?:-n raymill )?(?:{verbs})[^`#\n]*", step_5)
    unknown = [one for one in commands if not any(one.startswith(command.strip()) for command in GUIDE)]
    assert [one for one in unknown if "k8s/overlays" not in one] == []
    rules = first(built["eks"], "Role", "raymill-user")["rules"]
    for command, wanted in GUIDE.items():
        for group, resource, verbs in wanted:
            allowed = {
                verb
                for rule in rules
                if group in rule["apiGroups"] and resource in rule["resources"]
                for verb in rule["verbs"]
            }
            assert set(verbs.split()) <= allowed, command


def test_the_role_for_programs_suffices_for_the_verbs_and_people_may_do_the_same(built):
    def allowed(name):
        rules = first(built["eks"], "Role", name)["rules"]
        return {
            (verb, f"{resource}.{group}".rstrip("."))
            for rule in rules
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }

    assert set(RIGHTS) <= allowed("raymill-submit") <= allowed("raymill-user")


def test_no_patch_merges_lists_of_ray_objects():
    """A strategic-merge patch of a RayJob or RayCluster replaces `workerGroupSpecs` and `containers` as a whole."""
    merged = "patches: [{target: {kind: RayJob}, patch: '{spec: {rayClusterSpec: {workerGroupSpecs: []}}}'}]"
    assert merging_patches(yaml.safe_load(merged), K8S) and merging_patches({"patchesStrategicMerge": ["x"]}, K8S)
    for path in K8S.rglob("kustomization.yaml"):
        assert merging_patches(yaml.safe_load(path.read_text()), path.parent) == [], path


def merging_patches(kustomization, folder):
    """The patches that are no lists of operations (JSON 6902)."""
    found = list(kustomization.get("patchesStrategicMerge", ()))
    for patch in kustomization.get("patches", ()):
        text = patch["patch"] if "patch" in patch else (folder / patch["path"]).read_text()
        if not isinstance(yaml.safe_load(text), list):
            found.append(text)
    return found


def test_the_packages_that_render_are_in_the_wheel():
    """`raymill render` needs no checkout: the profiles are code, and every folder of cluster/ is packaged."""
    packaged = find_packages(str(K8S.parent), include=["raymill*"])
    assert {"raymill.cluster.kuberay", "raymill.cluster.submit"} <= set(packaged)
    sources = "".join(path.read_text() for path in (K8S.parent / "cluster" / "kuberay").glob("*.py"))
    assert "__file__" not in sources and "k8s/" not in re.sub(r'"""[\s\S]*?"""', "", sources)


def test_every_component_and_overlay_is_built():
    used = {
        one
        for path in K8S.rglob("kustomization.yaml")
        for one in yaml.safe_load(path.read_text()).get("components", ())
    }
    components = {path.name for path in (K8S / "components").iterdir() if (path / "kustomization.yaml").exists()}
    assert components <= {one.rpartition("/")[2] for one in used} | {*OTHERS, "closed-egress"}
    assert {path.name for path in (K8S / "overlays").iterdir()} == {*OVERLAYS}


def test_a_missing_kubectl_fails_with_what_to_do(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Exception, match="kubectl is not installed"):
        kustomize(K8S / "base")


def test_the_operator_is_the_one_that_the_schemas_and_checks_are_of():
    gates = {}
    for name in ("values", "values-rocksdb"):
        values = yaml.safe_load((K8S / "operator" / f"{name}.yaml").read_text())
        assert values["image"]["tag"] == "v1.7.0" and "1.7.0" in (K8S / "README.md").read_text()
        gates[name] = {one["name"]: one["enabled"] for one in values["featureGates"]}
    alpha = {name for name, on in gates["values"].items() if not on}
    assert len(gates["values"]) == 11 and len(alpha) == 7, "Helm replaces the list, so all of 1.7.0 are in it"
    changed = {name for name, on in gates["values-rocksdb"].items() if gates["values"][name] != on}
    assert changed == {"GCSFaultToleranceEmbeddedStorage"}


def test_images_of_every_manifest_are_of_one_example_registry():
    for path in K8S.rglob("*.yaml"):
        for image in re.findall(r"image: (\S+)", path.read_text()):
            assert image.startswith("registry.example.com/"), f"{path}: {image}"
