"""Reads Dockerfiles: stages, instructions and lock files, for the static tests of deploy/."""

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILES = {path.name.partition(".")[0]: path for path in sorted(DEPLOY.glob("*.Dockerfile"))}
LOCKED = re.compile(r"^(?P<name>[a-z0-9._-]+)==(?P<version>\S+) --hash=sha256:[0-9a-f]{64}$")

_DIGEST = re.compile(r"@(sha256:[0-9a-f]{64}|\$\{[A-Z_]+\})$")
_VARIABLES = {"NUMBA_CPU_NAME", "RAYMILL_KERNELS"}
_SECRET = re.compile(r"(?i)(secret|token|password|api_?key)")


@dataclass
class Stage:
    """A stage of a Dockerfile. base: what it begins with. instructions: (word, rest) in order."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        return [rest for found, rest in self.instructions if found == word]


def instructions(text: str) -> list[tuple[str, str]]:
    """(word, rest) of each instruction; continued lines are joined, comments left out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in joined]


def stages(text: str) -> dict[str, Stage]:
    """Name -> stage, in order."""
    found: dict[str, Stage] = {}
    for word, rest in instructions(text):
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stage = found[name] = Stage(name, base)
        elif found:
            stage.instructions.append((word, rest))
    return found


def lineage(found: dict[str, Stage], name: str) -> list[Stage]:
    """A stage after the stages that it is built on."""
    stage = found[name]
    return [*(lineage(found, stage.base) if stage.base in found else []), stage]


def locked(name: str) -> dict[str, str]:
    """Package -> version of a lock file; every line must have a hash."""
    found = {}
    for line in (DEPLOY / "lock" / f"{name}.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        match = LOCKED.match(line)
        assert match, f"deploy/lock/{name}.txt: {line}: not NAME==VERSION --hash=sha256:..."
        found[re.sub(r"[-_.]+", "-", match["name"])] = match["version"]
    return found


def problems(text: str, c_compiler: bool = False) -> list[str]:
    """What is wrong with a Dockerfile as an image of Raymill. c_compiler: its last stage may install gcc."""
    found, words = stages(text), instructions(text)
    last = lineage(found, list(found)[-1])
    external = [stage.base for stage in found.values() if stage.base not in found]
    runs = [(stage.name, run) for stage in found.values() for run in stage.all("RUN")]
    users = [user for stage in last for user in stage.all("USER")]
    environment = " ".join(rest for stage in last for rest in stage.all("ENV"))
    labels = " ".join(rest for stage in last for rest in stage.all("LABEL"))
    final_runs = [run for stage in last for run in stage.all("RUN")]
    installs = {word for run in final_runs if "apt-get install" in run for word in _packages(run)}
    checks = {
        "a base without a digest": not all(_DIGEST.search(one) for one in external),
        "a digest with a made-up default": any(
            word == "ARG" and rest.partition("=")[0].endswith("_DIGEST") and "=" in rest for word, rest in words
        ),
        "the tag latest": any(":latest" in one for one in external),
        "a single stage": len(found) < 3,
        "the last user is root or has a name": not users or not re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1]),
        "ADD": any(word == "ADD" for word, _ in words),
        "a download piped into a shell": any(re.search(r"(curl|wget)\b.*\|\s*(ba)?sh", run) for _, run in runs),
        "pip without hashes": any(
            re.search(r"\bpip (install|wheel)\b", part) and "--require-hashes" not in part and "--no-index" not in part
            for _, run in runs
            for part in run.split("&&")
        ),
        "pip at run time": any("pip install" in run for run in final_runs),
        "a compiler at run time": bool(installs - ({"gcc", "libc6-dev"} if c_compiler else set())),
        "no labels": not all(f"org.opencontainers.image.{one}" in labels for one in ("version", "revision", "source")),
        "a home folder outside /tmp": not re.search(r"\bHOME=/tmp\b", environment),
        "bytecode is written at run time": "PYTHONDONTWRITEBYTECODE=1" not in environment,
        "kernels are not warmed": not any("raymill warm --into" in run for _, run in runs),
        "kernels for the CPU of the build": not ({*re.findall(r"\w+(?==)", environment)} >= _VARIABLES),
        "a secret": any(_SECRET.search(rest) for word, rest in words if word != "RUN"),
        "a health check, which Kubernetes ignores": any(word == "HEALTHCHECK" for word, _ in words),
    }  # fmt: skip
    return [what for what, wrong in checks.items() if wrong]


def _packages(run: str) -> list[str]:
    install = re.search(r"apt-get install ([^&|;]*)", run)
    return [word for word in install[1].split() if not word.startswith("-")] if install else []
