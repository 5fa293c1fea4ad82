"""Packing that is planned from a sample, beside the packing."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster.errors import DataError
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.training.gpus import AssumedGpu
from raymill.training.pack import job
from raymill.training.plan.data import _counted, find_data
from raymill.training.plan.planning import plan_run
from tests.support.inline import InlineEngine
from tests.support.plan_cases import TINY, config
from tests.support.stories import story


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    """A folder with 600 stories of several lengths in two formats, and a run whose tokenizer was fitted to them."""
    folder = tmp_path_factory.mktemp("stories")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "Engine", InlineEngine)
        patch.setattr("raymill.cluster.plan.trial.TIMES", 1)
        texts = [" ".join(story(number + at) for at in range(1 + number % 9)) for number in range(600)]
        (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        pq.write_table(pa.table({"text": texts}), folder / "a.parquet", row_group_size=50)
        first = config(corpus=str(folder / "a.jsonl"), output=str(folder / "first"))
        job.PackJob.of(first, replace=False).run(Session(), Progress())
        yield folder


@pytest.fixture
def packed(folder, tmp_path):
    """The config of a corpus of that folder, with the fitted tokenizer and an output of its own."""

    def of(corpus, **more):
        model = {"config": TINY, "tokenizer": str(folder / "first/packed/tokenizer")}
        return config(corpus=str(folder / corpus), output=str(tmp_path / "run"), model=model, **more)

    return of


@pytest.mark.parametrize("corpus", ["a.jsonl", "a.parquet"])
def test_tokens_rows_and_units_of_a_sample_are_those_of_the_packing(packed, corpus, folder):
    settings = packed(corpus)
    planned = find_data(settings, 320)
    made = job.PackJob.of(settings, replace=False).run(Session(), Progress())
    found = find_data(settings, 320)
    assert found.exact and not planned.exact and not found.packing
    for name in ("tokens", "rows"):
        assert getattr(planned, name)["corpus-0"] == pytest.approx(getattr(found, name)["corpus-0"], rel=0.1), name
    assert planned.documents == pytest.approx(found.documents, rel=0.1)
    assert planned.label_share == pytest.approx(found.label_share, rel=0.02)
    tokenise, pack = planned.packing
    files = made.tokenised("corpus-0")
    assert (tokenise.name, pack.name) == ("tokenise-corpus-0", "pack-corpus-0") and files
    assert tokenise.core_s > 0 and tokenise.read == pytest.approx((folder / corpus).stat().st_size, rel=0.01)
    assert "were packed here" in planned.how and "`raymill pack` counts them" in planned.how


def test_a_corpus_of_chats_that_is_sampled_whole_has_its_tokens(packed, folder, monkeypatch):
    """Parquet has equal values once, and rows have the names of the parts of messages. The model is a relative path."""
    turns = [("user", f"What is {number} plus 1?") for number in range(60)]
    chats = [[{"role": role, "content": text}, {"role": "assistant", "content": story(at)[:90]}]
             for at, (role, text) in enumerate(turns)]  # fmt: skip
    pq.write_table(pa.table({"messages": chats, "note": ["n" * 500] * 60}), folder / "chats.parquet")
    monkeypatch.chdir(folder)
    settings = packed(
        "chats.parquet", columns={"messages": "messages"}, split={"train": 1.0, "validation": 0, "test": 0}
    )
    model = {"config": TINY, "tokenizer": "first/packed/tokenizer", "chat_template": "chatml"}
    settings = type(settings).model_validate(settings.model_dump(mode="json", exclude_defaults=True) | {"model": model})
    planned = find_data(settings, 320)
    job.PackJob.of(settings, replace=False).run(Session(), Progress())
    found = find_data(settings, 320)
    assert found.exact and planned.tokens["corpus-0"] == pytest.approx(found.tokens["corpus-0"], rel=0.02)


def test_a_plan_has_what_packing_takes_until_the_corpora_are_packed(packed):
    settings = packed("a.jsonl")
    plan = plan_run(settings, AssumedGpu(), cores=(4,))
    (on_cores,) = plan["phases"][0]["packing"]["on_cores"]
    assert on_cores["cores"] == 4 and on_cores["seconds"] > 15 and on_cores["machine_gib"] > 0
    assert plan["kind"] == "train" and any("start of Ray" in sentence for sentence in plan["assumed"])
    job.PackJob.of(settings, replace=False).run(Session(), Progress())
    packed_plan = plan_run(settings, AssumedGpu())
    assert packed_plan["phases"][0]["packing"] is None and len(packed_plan["assumed"]) < len(plan["assumed"])


def test_without_a_tokenizer_tokens_are_guessed_and_the_plan_says_why(packed, folder, tmp_path):
    missing = {"config": TINY, "tokenizer": str(tmp_path / "nothing")}
    found = find_data(packed("a.jsonl").model_copy(update={"model": config(model=missing).model}), 320)
    assert "a guess for 320 tokens" in found.how and "; no sample was packed: " in found.how and not found.packing
    fitted = find_data(config(corpus=str(folder / "a.jsonl"), output=str(tmp_path / "new")), 320)
    assert "a guess for 320 tokens" in fitted.how and "no sample" not in fitted.how


@pytest.mark.parametrize("changed", [
    {"tokens/train": 0}, {"tokens/train": -5}, {"tokens/train": 1e308}, {"tokens/train": None},
    {"documents/train": None}, {"label_tokens/train": None}, {"label_tokens/train": math.nan}, {"rows": 10**18},
])  # fmt: skip
def test_packed_rows_with_counters_that_are_not_written_are_refused(changed):
    found = {"tokens/train": 5, "documents/train": 2, "label_tokens/train": 3, "rows": 1} | changed
    counters = {name: value for name, value in found.items() if value is not None}
    manifest = SimpleNamespace(counters=counters, rows=counters.pop("rows"))
    packed = SimpleNamespace(uri="out/packed", corpora={"a": {"train": SimpleNamespace(manifest=manifest)}})
    with pytest.raises(DataError, match="the counters of corpus a were changed after they were written"):
        _counted(None, packed)
