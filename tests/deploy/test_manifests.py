"""The manifests in k8s/ without a cluster: every check passes on every overlay, and catches what it is for.

`python -m tests.deploy` lists the checks. Schemas of custom resources come from CRD_DIR (tests/deploy/schemas.py).
"""

import re
from dataclasses import replace

import pytest
import yaml
from setuptools import find_packages

from cluster.kuberay.profiles import OVERLAYS, Profile
from cluster.kuberay.rayjob import as_documents, build_config_map, build_rayjob
from tests.deploy import checks_operator, checks_pods, checks_schema, checks_sizes
from tests.deploy.checks import CHECKS
from tests.deploy.manifests import K8S, OTHERS, kustomize, worlds
from tests.deploy.schemas import HOW_TO, crds
from tests.deploy.written import manifests
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
    packaged = find_packages(str(K8S.parent), include=["cluster*", "pipelines*", "training*"])
    assert {"cluster.kuberay", "cluster.submit"} <= set(packaged)
    sources = "".join(path.read_text() for path in (K8S.parent / "cluster" / "kuberay").glob("*.py"))
    assert "__file__" not in sources and "k8s/" not in re.sub(r'"""[\s\S]*?"""', "", sources)


def test_every_component_and_overlay_is_built():
    used = {
        one
        for path in K8S.rglob("kustomization.yaml")
        for one in yaml.safe_load(path.read_text()).get("components", ())
    }
    components = {path.name for path in (K8S / "components").iterdir() if (path / "kustomization.yaml").exists()}
    assert components <= {one.rpartition("/")[2] for one in used} | {*OTHERS}
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
