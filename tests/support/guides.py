"""The texts for users: the front page, the contributors' page, Python's page, each folder's guide and reference."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("cluster", "pipelines", "training", "deploy", "k8s", "tests")
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "cluster" / "API.md",
         *sorted(path for folder in FOLDERS for name in ("README.md", "REFERENCE.md")
                 for path in (ROOT / folder).rglob(name))]  # fmt: skip
# By path below the root, such as "pipelines/curate/README.md".
GUIDES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in FILES}


def blocks(language: str) -> list[str]:
    """The code blocks of a language in all guides, in the order of the files."""
    return [code for text in GUIDES.values() for code in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)]
