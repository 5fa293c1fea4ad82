"""The manifests in k8s/ without a cluster: every check passes on every overlay, and catches what it is for.

`python -m tests.deploy` lists the checks. Schemas of custom resources come from CRD_DIR (tests/deploy/schemas.py).
"""

import re

import pytest
import yaml

from cluster.kuberay.profiles import OVERLAYS
from tests.deploy.checks import CHECKS
from tests.deploy.manifests import K8S, OTHERS, kustomize, worlds
from tests.deploy.schemas import HOW_TO, crds
from tests.deploy.written import manifests

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


def test_every_component_and_overlay_is_built():
    used = {
        one
        for path in K8S.rglob("kustomization.yaml")
        for one in yaml.safe_load(path.read_text()).get("components", ())
    }
    components = {path.name for path in (K8S / "components").iterdir() if (path / "kustomization.yaml").exists()}
    assert components - {"monitoring"} <= {one.rpartition("/")[2] for one in used} | {*OTHERS}
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
