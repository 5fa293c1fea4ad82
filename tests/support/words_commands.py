"""The command line without Ray, with the kind `words` installed as a package's entry point."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from raymill.cluster import cli
from raymill.cluster.frame import kinds
from tests.support import inline

# `left` and `right` are independent; `last` needs both.
BRANCHES = """
kind: run
output: out
steps:
  left: {kind: words, inputs: [{path: in}]}
  right: {kind: words, inputs: [{path: in}], lower: true}
  last:
    kind: words
    inputs: [{path: "${left.output}/words", text: word}, {path: "${right.output}/words", text: word, source: other}]
"""


@contextmanager
def words_commands(tmp_path: Path, monkeypatch, capsys, config: str) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Change to a folder with two texts of seven words in `in/`, and this config in w.yaml.

    Yields:
        raymill(*words, engine): runs a command; returns (exit code, standard output, standard error).
    """
    about = tmp_path / "site" / "words-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: words\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[{kinds.GROUP}]\nwords = tests.support.words_kind:WORDS\n")
    monkeypatch.syspath_prepend(str(about.parent))
    for cached in (kinds._named, kinds.kind_of):
        cached.cache_clear()
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Path("in/a.txt").write_text("the cat and the dog")
    Path("in/b.txt").write_text("The end")
    Path("w.yaml").write_text(config)

    def call(*words: str, engine=inline.InlineEngine) -> tuple[int, str, str]:
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as leaving:
            inline.without_ray(patch, engine)
            cli.main(words)
        return leaving.value.code, *capsys.readouterr()

    yield call
    for cached in (kinds._named, kinds.kind_of):
        cached.cache_clear()
