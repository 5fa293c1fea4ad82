"""What Raymill uses of Ray that Ray does not publish: the installed Ray has it, and it is named in one file alone."""

import re
from pathlib import Path

import pytest
import ray

from raymill.cluster.errors import ClusterError
from raymill.cluster.ray_private import NAMES, SETTINGS, private, replace_private

ROOT = Path(__file__).parents[2]
# A part of Ray that is not published: an underscore before a name, or one of these packages.
_UNPUBLISHED = re.compile(
    r"""\bray(\.\w+)*\._(?!_)\w | \._(private|internal|raylet)\b | from[ ]ray[\w.]*[ ]import[ ][^\n]*\b_\w
    | \bray\.(core|experimental|autoscaler|train\.v2)\b""",
    re.VERBOSE,
)


@pytest.mark.parametrize("name", NAMES)
def test_the_installed_ray_has_every_private_name(name):
    private(name)  # its error says what is missing, what it is for and what to do


def test_the_installed_ray_has_every_private_setting():
    folder = Path(ray.__file__).parent
    sources = [*folder.glob("_private/*.py"), *folder.glob("train/v2/_internal/*.py"), Path(ray._raylet.__file__)]
    known = b"".join(source.read_bytes() for source in sources)
    for name, purpose in SETTINGS.items():
        # The settings of the raylet are in the binary, without the RAY_ of their variables.
        has = name.encode() in known or name.removeprefix("RAY_").encode() in known
        assert has, f"Ray {ray.__version__} does not know {name}. Raymill sets it: it {purpose}."


def test_a_name_that_a_ray_lacks_is_an_error_with_its_purpose(monkeypatch):
    monkeypatch.setitem(NAMES, "no_such_name", ("ray._private.state", "counts sheep"))
    monkeypatch.setitem(NAMES, "other", ("ray.no.such.module", "is gone"))
    said = r"^Ray [\d.]+ has no ray\._private\.state\.no_such_name\. Raymill needs it: it counts sheep\."
    for use in (lambda: private("no_such_name"), lambda: replace_private("no_such_name", 1)):
        with pytest.raises(ClusterError, match=said):
            use()
    with pytest.raises(ClusterError, match=r"has no ray\.no\.such\.module\.other\..*it is gone\. Install the Ray that"):
        private("other")


def test_no_other_file_of_the_product_names_what_ray_does_not_publish():
    found = {
        f"{path.relative_to(ROOT)}: {match[0]}"
        for folder in ("cluster", "pipelines", "training", "deploy")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "ray_private.py"
        for match in _UNPUBLISHED.finditer(path.read_text())
    }
    assert not found, f"{found}: find Ray's public way, or list the name with its reason in cluster/ray_private.py"
