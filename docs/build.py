"""The site of the documentation: `python -m docs.build`, or `make docs`. Fails at a dead link and an undocumented name.

The pages are the guides beside the code, the pages of this folder, and references that are made here: of the settings,
the commands and the public names of `raymill`. They are brought together in build/docs; the site is build/site.
"""

import inspect
import posixpath
import re
import shutil
import subprocess
import sys
from pathlib import Path

import raymill
from docs.commands import commands_page
from docs.settings import settings_page
from raymill.cluster.artifact import Artifact
from raymill.cluster.frame import kinds
from raymill.cluster.frame.job import Run
from raymill.cluster.submit.calls import SubmittedJob

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "build" / "docs"
# A text of the repository -> its page.
GUIDES = {
    "README.md": "index.md",
    "docs/tutorial.md": "tutorial.md",
    "docs/examples.md": "how-to/examples.md",
    "docs/design.md": "design.md",
    "pipelines/curate/README.md": "how-to/curate.md",
    "pipelines/prepare/README.md": "how-to/prepare.md",
    "pipelines/generate/README.md": "how-to/generate.md",
    "pipelines/distil/README.md": "how-to/distil.md",
    "pipelines/prompting/README.md": "how-to/prompt.md",
    "pipelines/compare/README.md": "how-to/compare.md",
    "pipelines/annotate/README.md": "how-to/annotate.md",
    "pipelines/errors/README.md": "how-to/errors.md",
    "pipelines/prepare/assess/README.md": "reference/assess.md",
    "pipelines/curate/REFERENCE.md": "reference/curate.md",
    "pipelines/prepare/REFERENCE.md": "reference/prepare.md",
    "pipelines/compare/REFERENCE.md": "reference/compare.md",
    "training/REFERENCE.md": "reference/train.md",
    "pipelines/rules/README.md": "how-to/rules.md",
    "training/README.md": "how-to/train.md",
    "cluster/chain/README.md": "how-to/run-files.md",
    "training/serving/README.md": "how-to/try-a-model.md",
    "cluster/store/README.md": "how-to/storage.md",
    "cluster/submit/README.md": "how-to/submit.md",
    "k8s/README.md": "how-to/kubernetes.md",
    "deploy/README.md": "how-to/images.md",
    "cluster/README.md": "how-to/recover.md",
    "cluster/API.md": "how-to/python.md",
    "pipelines/ray_data/README.md": "how-to/ray-data.md",
    "tests/benchmarks/README.md": "numbers/speeds.md",
    "docs/numbers.md": "numbers/results.md",
    "tests/benchmarks/gpu/PREDICTIONS.md": "numbers/gpu-predictions.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
# What the guides link to and show as it is, below docs/.
_ASSETS = ("docs/report.png", "docs/examples")
_LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


class SiteError(Exception):
    """The documentation is not whole; the message says where."""


def main() -> int:
    """Build the site. Returns the exit code."""
    try:
        write_pages(SOURCE)
    except SiteError as error:
        print(error, file=sys.stderr)
        return 1
    program = Path(sys.executable).with_name("zensical")
    return subprocess.run([program, "build", "--strict", "--clean"], cwd=ROOT).returncode


def write_pages(folder: Path) -> None:
    """Write every page of the site as Markdown into `folder`, which is made anew.

    Raises:
        SiteError: a guide links to nothing, or a public name has no docstring.
    """
    shutil.rmtree(folder, ignore_errors=True)
    pages = {page: _with_links(source) for source, page in GUIDES.items()}
    own = (one.name for one in kinds.kinds() if one.of is None)
    pages |= {f"reference/settings-{kind}.md": settings_page(kind) for kind in own}
    pages |= {"reference/commands.md": commands_page(), "reference/python.md": _names_page()}
    for asset in _ASSETS:
        to, source = folder / asset.removeprefix("docs/"), ROOT / asset
        if source.is_dir():
            shutil.copytree(source, to, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, to)
    for name, text in pages.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def _with_links(source: str) -> str:
    """The text of a guide whose links lead to pages of the site; a link to another file becomes that file's name."""
    page = GUIDES[source]

    def replaced(link: re.Match[str]) -> str:
        text, path, place = link[1], link[2], link[3] or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if not (ROOT / target).exists():
            raise SiteError(f"{source}: the link to {path} leads nowhere.")
        shown = GUIDES.get(target) or (target.removeprefix("docs/") if target.startswith(_ASSETS) else None)
        if shown:
            return f"[{text}]({posixpath.relpath(shown, posixpath.dirname(page) or '.')}{place})"
        return f"{text} (`{target}`)" if text.strip("`") != target else f"`{target}`"

    return _LINK.sub(replaced, (ROOT / source).read_text())


def _names_page() -> str:
    """The public names of `raymill` and the classes that its functions return, each with its docstring."""
    names = [name for name in raymill.__all__ if not name.startswith("_")]
    if bare := [name for name in names if not inspect.getdoc(getattr(raymill, name))]:
        raise SiteError(f"raymill: without a docstring: {', '.join(bare)}.")
    errors = [name for name in names if name[0].isupper()]
    first = [name for name in kinds.names() if name in names]
    others = [name for name in names if name not in (*errors, *first)]
    runs = [kinds.kind_of(kind).job.load().run_type for kind in first]  # type: ignore[attr-defined]
    returned = (*runs, Run, Artifact, SubmittedJob)
    shown = {
        "Python": [f"raymill.{name}" for name in (*first, *others)],
        "What the functions return": [f"{kind.__module__}.{kind.__name__}" for kind in returned],
        "Errors": [f"raymill.{name}" for name in errors],
    }
    lines: list[str] = []
    for title, found in shown.items():
        lines += [f"#{'#' * bool(lines)} {title}", "", *(f"::: {name}\n" for name in found)]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
