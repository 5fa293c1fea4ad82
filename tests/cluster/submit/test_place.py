"""The options that name a backend."""

import re

import pytest

from raymill.cluster.cli import main
from raymill.cluster.errors import ConfigError
from raymill.cluster.submit.commands import Place
from raymill.cluster.submit.jobs_api import JobsApi
from raymill.cluster.submit.local import Local


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


ONLY_JOBS = {"address": "http://127.0.0.1:1", "token_file": "t"}, {"ship_code": True}
ONLY_KUBERAY = {"namespace": "n", "context": "c"}, {"overlay": "eks", "image": "i", "within": "2h"}


@pytest.mark.parametrize(
    ("to", "option", "value", "of_submit"),
    [
        (to, option, value, of_submit)
        for elsewhere, parts in ((("local", "kuberay"), ONLY_JOBS), (("local", "jobs"), ONLY_KUBERAY))
        for to in elsewhere
        for of_submit, options in enumerate(parts)
        for option, value in options.items()
    ],
)
def test_an_option_of_another_place_is_refused_and_not_ignored(to, option, value, of_submit):
    place = Place(to=to) if of_submit else Place(to=to, **{option: value})
    with pytest.raises(ConfigError, match=rf"^{option}\b.* to=.(kuberay|jobs)"):
        place.backend(**({option: value} if of_submit else {}))


def test_a_place_in_words():
    assert Place().where.startswith("on this machine ")
    assert Place(address="http://127.0.0.1:8311").where == "at http://127.0.0.1:8311"
    assert Place(to="kuberay", namespace="team").where == "in the namespace team"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "--to local"),
        ({"address": "http://127.0.0.1:1"}, "--address http://127.0.0.1:1"),
        ({"address": "http://a:1", "token_file": "my file", "insecure_http": True},
         "--address http://a:1 --token-file 'my file' --insecure-http"),
        ({"to": "kuberay", "namespace": "team", "context": "c"}, "--to kuberay --namespace team --context c"),
    ],
)  # fmt: skip
def test_a_command_names_its_place_by_every_option_that_was_given(options, words):
    assert Place(**options).command("logs", "run", "-f").endswith(f" logs run -f {words}")


def test_the_options_of_a_place_reach_its_backend(tmp_path, monkeypatch):
    (tmp_path / "token").write_text("word")
    place = Place(address="http://10.0.0.1:1/", token_file=str(tmp_path / "token"), insecure_http=True)
    jobs = place.backend(ship_code=True)
    assert isinstance(jobs, JobsApi) and jobs.ships and not place.backend().ships
    assert jobs.api.address == "http://10.0.0.1:1"
    assert jobs.api._session.auth._token == "word"
    with pytest.raises(ConfigError, match="unencrypted"):
        Place(address="http://10.0.0.1:1/").backend()
    assert isinstance(Place().backend(), Local)
    with pytest.raises(ConfigError, match='to="jobs": no `address`'):
        Place(to="jobs").backend()
