"""The command line without Ray, with a kind of a package: a run file whose steps count words."""

from pathlib import Path

import pytest

from raymill.cluster import cli
from raymill.cluster.frame import kinds
from tests.support import inline

# `count` counts the words of text files, `again` those that it found, `last` those of `again`.
WORDS = """
kind: run
output: out
steps:
  last: {kind: words, inputs: [{path: "${again.output}/words", text: word}]}
  again: {kind: words, inputs: [{path: "${count.output}/words", text: word}], lower: true}
  count: {kind: words, inputs: [{path: in}]}
"""


@pytest.fixture
def raymill(tmp_path, monkeypatch, capsys):
    """Call the command line, without Ray, in a folder with two texts of seven words and WORDS in w.yaml."""
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
    Path("w.yaml").write_text(WORDS)

    def call(*words: str, engine=inline.InlineEngine) -> tuple[int, str, str]:
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as leaving:
            inline.without_ray(patch, engine)
            cli.main(words)
        return leaving.value.code, *capsys.readouterr()

    yield call
    for cached in (kinds._named, kinds.kind_of):
        cached.cache_clear()
