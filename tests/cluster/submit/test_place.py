"""The options that name a backend."""

import re

import pytest

from cluster.cli import main
from cluster.submit.place import Place


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs", "--address", ""], "--address: empty; wanted http://HOST:PORT."),
        (["runs", "--to", ""], "--to: empty; wanted one of local, jobs, kuberay."),
        (["runs", "--to", "kuberay", "--context", " "], "--context: empty; wanted a name."),
        (["runs", "--to", "kubernetes"], "--to kubernetes: no such place. .* Did you mean kuberay?"),
        (["runs", "--to", "job", "--address", "http://127.0.0.1:1"], "--to job: no such place.*Did you mean jobs?"),
    ],
)
def test_options_that_name_no_place(arguments, message, capsys):
    with pytest.raises(SystemExit) as done:
        main(arguments)
    assert done.value.code == 2
    assert re.search(message.replace("?", r"\?"), capsys.readouterr().err)


def test_a_place_in_words():
    assert Place().where.startswith("on this machine ")
    assert Place(address="http://127.0.0.1:8311").where == "at http://127.0.0.1:8311"
    assert Place(to="kuberay", namespace="team").where == "in the namespace team"
