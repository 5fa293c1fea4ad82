"""A comparison whose unfinished work or data set was changed, in agreement with its manifests, ends with what to do."""

import json
import shutil

import pyarrow as pa
import pytest

from raymill.cluster.errors import DataError, UserError
from raymill.pipelines.prompting.job import PromptJob
from tests.support.changed_work import change, change_slices
from tests.support.generate_inline import rows
from tests.support.prompt_inline import prompt_inline as run
from tests.support.sampled import sampled


def first(**changes):
    """Change the first row of some."""
    return lambda found: [found[0] | changes, *found[1:]]


OTHER = '{"messages":[{"content":"What is the password?","role":"user"}],"model":"small"}'


@pytest.mark.parametrize(
    ("name", "asked"),
    sampled([("another question", 0), ("another key", 0), ("no key", 0), ("no JSON", 0), ("deep", 0),
             ("dropped", 67), ("twice", 72), ("another variant", 72), ("another item", 72)], 4),
)  # fmt: skip
def test_requests_of_a_changed_file_are_refused(name, asked, config, server, monkeypatch, tmp_path):
    edit = {
        "another question": first(body=OTHER),
        "another key": first(key="../../x"),
        "no key": first(key=None),
        "no JSON": first(body="{"),
        "deep": first(body="[" * 100_000),
        "dropped": lambda found: found[5:],
        "twice": lambda found: [*found, found[0]],
        "another variant": first(variant=-1),
        "another item": first(item=-1),
    }[name]
    with monkeypatch.context() as patch, pytest.raises(UserError, match="stopped"):
        patch.setattr("raymill.pipelines.prompting.asking.AskModel", stopped)
        run(config, monkeypatch)
    change_slices(tmp_path / "out/_work/requests.small", edit)
    with pytest.raises(DataError, match=r"changed after (it was|they were) written\. Delete the folder"):
        run(config, monkeypatch)
    assert server.stats()["requests"] == asked
    if name not in ("dropped", "another key", "twice"):
        return
    shutil.rmtree(tmp_path / "out/_work")
    shutil.rmtree(tmp_path / "out/answers_of.small", ignore_errors=True)
    assert run(config, monkeypatch).report["items"] == 18, "what the error says helps"
    assert "../../x" not in {one["key"] for one in rows(tmp_path / "out", "answers")}


def stopped(*_):
    raise UserError("stopped")


def column(name, value):
    """Change the first value of a column."""

    def edit(table):
        at = table.column_names.index(name)
        values = pa.array([value, *table[name].to_pylist()[1:]], table.schema.field(at).type)
        return table.set_column(at, name, values)

    return edit


TOKENS = {"input": 1, "cached": 0, "output": 1, "reasoning": 0}
CHANGES = {
    "another variant": column("variant", -1),
    "no variant": column("variant", 77),
    "another item": column("item", -5),
    "no item": column("item", None),
    "tokens below 0": column("tokens", TOKENS | {"input": -(10**12)}),
    "no tokens": column("tokens", None),
    "seconds are no number": column("seconds", float("nan")),
    "dropped": lambda table: table.slice(3),
    "twice": lambda table: pa.concat_tables([table, table.slice(0, 1)]),
}


@pytest.mark.parametrize("name", sampled(CHANGES, 3))
def test_answers_of_a_changed_file_are_not_in_the_report(name, config, monkeypatch, tmp_path):
    with monkeypatch.context() as patch, pytest.raises(UserError, match="stopped"):
        patch.setattr(PromptJob, "_report", stopped)
        run(config, monkeypatch)
    change(tmp_path / "out/answers_of.small", CHANGES[name])
    with pytest.raises(
        DataError, match=r"were changed after they were written\. Delete the folders .*/_work and .*/answers_of\.small"
    ):
        run(config, monkeypatch)
    assert not (tmp_path / "out/report.json").exists()


@pytest.mark.parametrize("shape", ["x", ["pairs"], None])
def test_a_data_set_of_no_shape_is_refused(shape, config, data, monkeypatch):
    report = json.loads((data / "report.json").read_text())
    (data / "report.json").write_text(json.dumps(report | {"shape": shape}))
    with pytest.raises(DataError, match=r"as shape, which `raymill.prepare` does not make"):
        run(config, monkeypatch)


@pytest.mark.parametrize(("split", "name"), [("validation", "completion"), ("train", "id"), ("train", "prompt")])
def test_a_data_set_with_a_record_without_text_is_refused(split, name, config, data, monkeypatch):
    change(data / split, column(name, None))
    with pytest.raises(DataError, match=r"is none that `raymill.prepare` writes .* Make the data set again"):
        run(config, monkeypatch)


def test_questions_that_make_requests_without_bound_are_named(config, server, monkeypatch):
    monkeypatch.setattr("raymill.pipelines.prompting.stages._MOST_CHARACTERS", 5000)
    with pytest.raises(DataError, match=r"the requests about 18 items in 4 variants have over 5,000 characters"):
        run(config, monkeypatch)
    assert server.stats()["requests"] == 0
