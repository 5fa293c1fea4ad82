"""The command line without Ray, with a kind of a package: a run file whose steps count words."""

import pytest

from tests.support.words_commands import words_commands

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
    """Call the command line with WORDS in w.yaml."""
    with words_commands(tmp_path, monkeypatch, capsys, WORDS) as call:
        yield call
