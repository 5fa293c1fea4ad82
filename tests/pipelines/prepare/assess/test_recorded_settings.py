"""`raymill assess` of a finished run whose records somebody else wrote."""

import base64
import json
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from raymill.cluster.store.store import Store
from tests.support.inline import prepare_inline
from tests.support.queues import rows, settings_of
from tests.support.sampled import sampled

CHANGE = ("-o", "assess.topics=[paper]")
CODE = "import pathlib\npathlib.Path({ran!r}).touch()\ndef step(text):\n    return text\n"


@pytest.fixture
def forge(tmp_path, monkeypatch) -> Callable[[Callable[[dict], object]], str]:
    """Make a run, and change the config in its report and manifest. Returns its folder."""
    run = prepare_inline(settings_of(tmp_path, rows(60), embeddings=None), monkeypatch)

    def changed(change: Callable[[dict], object]) -> str:
        for name in ("report.json", "manifest.json"):
            path = Path(run.uri, name)
            content = json.loads(path.read_text())
            change(content["config"])
            path.write_text(json.dumps(content))
        return run.uri

    return changed


def packed(ran: Path) -> str:
    """The source of a module as a job carries it."""
    carried = {"name": "carried:step", "files": {"carried.py": CODE.format(ran=str(ran))}}
    return base64.b64encode(zlib.compress(json.dumps(carried).encode())).decode()


@pytest.mark.parametrize(
    "entry",
    ["beside:step", {"use": "carried:step", "source": "packed"}, "subprocess:getoutput"],
    ids=["beside the report", "in the report", "installed"],
)
@pytest.mark.parametrize("group", sampled(["clean", "validate"], 1))
@pytest.mark.parametrize("words", [(), CHANGE], ids=["as it was", "with a change"])
def test_code_that_a_report_names_is_not_imported(forge, tmp_path, assess, entry, group, words):
    ran = tmp_path / "ran"
    if isinstance(entry, dict):
        entry = entry | {"source": packed(ran)}
    change = lambda of: of[group].update({"custom": [entry]} if group == "clean" else {"rules": {"custom": [entry]}})  # noqa: E731
    run = forge(change)
    Path(run, "beside.py").write_text(CODE.format(ran=str(ran)))
    code, _, error = assess(run, *words)
    assert code == 0, error
    assert not ran.exists() and not {"beside", "carried"} & sys.modules.keys()


def test_a_rule_of_the_record_is_not_imported_for_a_change_of_the_rules_either(forge, assess):
    run = forge(lambda of: of["validate"].update(rules={"custom": ["subprocess:getoutput"]}))
    code, _, error = assess(run, "-o", "validate.copied_answer=false")
    assert code == 2 and "subprocess:getoutput: this rule is code that the record of a run names" in error


@pytest.mark.parametrize("words", sampled([((),), (CHANGE,)], 1), ids=["as it was", "with a change"])
@pytest.mark.parametrize(
    ("assessed", "setting"),
    [
        ({"embeddings": {"model": "s3://theirs/model"}}, "assess.embeddings.model"),
        ({"embeddings": {"model": "theirs/model"}}, "assess.embeddings.model"),
        ({"embeddings": {"model": "/home/user/model"}}, "assess.embeddings.model"),
        ({"sentiment": {"model": "s3://theirs/model.bin", "label": "good"}}, "assess.sentiment.model"),
        ({"label": "source", "embeddings": {}, "predictions": "/home/user/private.jsonl"}, "assess.predictions"),
    ],
    ids=str,
)
def test_no_file_or_model_that_only_the_record_names_is_read(forge, assess, monkeypatch, assessed, setting, words):
    run = forge(lambda of: of.setdefault("assess", {}).update(assessed))
    refuse_others(monkeypatch, run)
    code, _, error = assess(run, *words)
    assert code == 2 and f"{setting} is " in error and "by the record of this run alone" in error


def test_a_model_that_the_user_names_in_place_of_the_recorded_one_is_read(forge, tmp_path, assess):
    run = forge(lambda of: of.setdefault("assess", {}).update(embeddings={"model": "s3://theirs/model"}))
    code, _, error = assess(run, "-o", f"assess.embeddings.model={tmp_path}/mine")
    assert code == 2 and f"there is no folder {tmp_path}/mine" in error
    assert assess(run, "-o", "assess.embeddings=null")[0] == 0


@pytest.mark.parametrize("words", [(), CHANGE], ids=["as it was", "with a change"])
@pytest.mark.parametrize("terms", ["/home/user/private.yaml", "s3://theirs/terms.yaml", [], {"a": 1}], ids=str)
def test_no_file_of_terms_that_the_manifest_names_is_read(forge, assess, monkeypatch, terms, words):
    run = forge(lambda of: of["clean"].update(terminology=terms if isinstance(terms, str) else {}))
    manifest = json.loads(Path(run, "manifest.json").read_text())
    manifest["config"]["clean"]["terminology"] = terms
    Path(run, "manifest.json").write_text(json.dumps(manifest))
    refuse_others(monkeypatch, run)
    code, _, error = assess(run, *words)
    assert code == 2 and "config.clean.terminology holds no terms" in error


def test_the_storage_of_the_record_is_not_used(forge, tmp_path, assess, monkeypatch):
    """Not its endpoint, and not the variables of the environment that it would put into a key."""
    monkeypatch.setenv("PRIVATE", "CANARY")
    theirs = {"endpoint_url": "http://theirs", "access_key_id": "${PRIVATE}", "secret_access_key": "${PRIVATE}"}
    run = forge(lambda of: (of.update(storage=theirs), of["inputs"][0].update(storage=theirs)))
    making, opened = Store.__init__, []

    def made(self, *options, **named) -> None:
        making(self, *options, **named)
        opened.append(self)

    monkeypatch.setattr(Store, "__init__", made)
    code, _, error = assess(run, *CHANGE)
    assert code == 0, error
    assert opened and not any(one.options.endpoint_url or one.options.access_key_id for one in opened)


def refuse_others(monkeypatch, run: str) -> None:
    """Fail at any place outside of the run that a store is asked for."""
    reading = Store.read_bytes

    def read_bytes(self, uri, *more):
        assert uri.startswith(f"{run}/"), uri
        return reading(self, uri, *more)

    monkeypatch.setattr(Store, "read_bytes", read_bytes)
