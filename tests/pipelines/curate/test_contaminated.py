"""Decontamination in a whole run: the reason, the artifact `contaminated`, what-if, and errors before the run."""

import json
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from raymill import pipelines
from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import ConfigError, StorageError
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.questions.explain import explain
from raymill.pipelines.curate.questions.run_reader import RunReader
from raymill.pipelines.curate.questions.what_if import compare_decisions
from raymill.pipelines.curate.stages.write_corpus import contaminated_rows
from raymill.pipelines.rules.decontamination import MATCHES_SCHEMA, SIGNAL
from raymill.pipelines.text.texts import Texts
from tests.support.inline import curate_inline
from tests.support.shown import print_dry_run as print_plan
from tests.support.stories import ledger, story

CONFIGS = Path(pipelines.__path__[0], "configs")
QUESTIONS = [
    "Ten sailors carry 21 barrels each from a harbour to a market, and 24 barrels break on their way. How many whole "
    "barrels does their captain sell?",
    "A weaver makes 3 blankets a week and sells each for 40 coins, of which wool takes 15. How many coins has she "
    "earned after 6 weeks of work?",
    "There were 300 candles in a library. Every evening 4 of them burn down, and each month a farmer brings 90 more. "
    "How many candles remain after 2 months of 30 days?",
]


@pytest.fixture
def settings(tmp_path) -> dict:
    """40 texts of 100 kB; one has a whole question, one three quarters of another, and one in German has the third."""
    texts = [" ".join([story(n, 12)] * 100) for n in range(40)]
    texts[3] = texts[3][:50_000] + "\n\n" + QUESTIONS[1].upper() + "\n\n" + texts[3][50_000:]
    texts[30] = QUESTIONS[2][: int(0.75 * len(QUESTIONS[2]))] + ".\n\n" + texts[30]
    texts[31] = "Der alte Hafen war am Morgen still, und die Boote kamen erst spät zurück. " * 1000 + QUESTIONS[0]
    table = pa.table({"id": [f"d{n}" for n in range(40)], "text": texts})
    pq.write_table(table, tmp_path / "texts.parquet", row_group_size=4)
    (tmp_path / "set.jsonl").write_text("".join(json.dumps({"question": text}) + "\n" for text in QUESTIONS))
    a_set = {"name": "barrels", "path": str(tmp_path / "set.jsonl"), "columns": ["question"]}
    return {
        "inputs": [{"source": "stories", "path": str(tmp_path / "texts.parquet"), "id": "id"}],
        "output": str(tmp_path / "run"),
        "language": {"keep": ["en"]},
        "rules": {"packs": [], "decontamination": {"sets": [a_set]}},
        "personal_data": None,
        "dedup": None,
    }


def contaminated(run) -> list[dict]:
    return Artifact.load(Store(), f"{run.uri}/contaminated").table().to_pylist()


def test_contaminated_documents_are_removed_and_listed_with_set_example_and_span(settings, monkeypatch):
    run = curate_inline(settings, monkeypatch)
    reasons = {id: (row["stage"], row["reason"], row["value"], row["threshold"]) for id, row in ledger(run).items()}
    assert {id: reason[:2] for id, reason in reasons.items()} == {
        "d3": ("decontamination", "contaminated"),
        "d30": ("decontamination", "contaminated"),
        "d31": ("language", "language_not_kept"),
    }
    assert reasons["d3"][2:] == (1, 0.5)
    rows = contaminated(run)
    assert [(row["id"], row["position"], row["set"], row["example"], row["column"]) for row in rows] == [
        ("d3", 3, "barrels", 1, "question"),
        ("d30", 30, "barrels", 2, "question"),
        ("d31", 31, "barrels", 0, "question"),  # removed for another reason, and contaminated all the same
    ]
    assert rows[0]["text"] == QUESTIONS[1].upper()[:-1]
    assert rows[0]["end"] - rows[0]["start"] == len(rows[0]["text"])
    assert 0.7 < rows[1]["fraction"] == reasons["d30"][2] < 0.8
    assert run.report["funnel"][2]["stage"] == "decontamination"
    shown = explain(RunReader(Store(), run.uri), "d3")
    assert f"contains  100% of question of example 1 of barrels, at characters {rows[0]['start']:,} to" in shown


def test_the_result_does_not_depend_on_the_units(settings, monkeypatch):
    many, one = (
        curate_inline(settings | {"output": f"{settings['output']}-{mib}", "execution": {"unit_mib": mib}}, monkeypatch)
        for mib in (1, 64)
    )
    counts = [len(RunReader(Store(), run.uri).inputs.units) for run in (many, one)]
    assert counts[0] > 2 > counts[1]
    assert contaminated(many) == contaminated(one)
    assert ledger(many) == ledger(one)


def test_documents_may_stay_and_be_listed(settings, monkeypatch):
    settings["rules"]["decontamination"]["remove"] = False
    run = curate_inline(settings | {"corpus": {"columns": ["contamination_fraction"]}}, monkeypatch)
    assert set(ledger(run)) == {"d31"}
    assert len(contaminated(run)) == 3
    rows = {row["id"]: row["contamination_fraction"] for row in run.corpus.table().to_pylist()}
    assert rows["d3"] == 1 and rows["d4"] == 0


def test_a_document_at_the_bound_is_not_listed():
    def matches(texts, store):
        found = {name: pa.nulls(len(texts)) for name in MATCHES_SCHEMA.names}
        return pa.table(found | {"document": range(len(texts))})

    rule = SimpleNamespace(max_fraction=0.5, matches=matches)
    attributes = pa.table({"id": ["a", "b", "c"], SIGNAL: [0.5, 0.6, 1.0]})
    texts = Texts.from_strings(["x", "y", "z"])
    rows = contaminated_rows(rule, Store(), "web", texts, attributes, 10).to_pylist()  # type: ignore[arg-type]
    assert [(row["id"], row["source"], row["position"]) for row in rows] == [("b", "web", 11), ("c", "web", 12)]


def test_what_if_takes_another_bound_without_measuring_again(settings, monkeypatch):
    curate_inline(settings, monkeypatch)
    config = CurateConfig.model_validate({"kind": "curate", "name": "test"} | settings)
    settings["rules"]["decontamination"]["max_fraction"] = 0.9
    changed = CurateConfig.model_validate({"kind": "curate", "name": "test"} | settings)
    found = compare_decisions(config, changed)
    of_rule = next(entry for entry in found["reasons"] if entry["reason"] == "contaminated")
    assert [of_rule["first"][side]["documents"] for side in ("before", "after")] == [2, 1]


def test_the_dry_run_says_what_is_looked_for(settings, capsys):
    print_plan(CurateConfig.model_validate({"kind": "curate", "name": "test"} | settings))
    assert "sets     barrels: 3 texts of 3 examples\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"columns": ["qestion"]}, ConfigError, r"line 1: has no column qestion; .*Did you mean question\?"),
        ({"path": "no/such.jsonl"}, StorageError, r"no/such\.jsonl"),
    ],
)
def test_a_wrong_set_is_reported_before_the_run(settings, monkeypatch, tmp_path, change, kind, message):
    settings["rules"]["decontamination"]["sets"][0] |= change
    with pytest.raises(kind, match=message):
        curate_inline(settings, monkeypatch)
    assert not (tmp_path / "run").exists()


def test_another_content_of_a_set_is_another_run(settings, monkeypatch, tmp_path):
    run = curate_inline(settings, monkeypatch)
    (tmp_path / "set.jsonl").write_text(json.dumps({"question": QUESTIONS[0]}) + "\n")
    changed = curate_inline(settings | {"output": f"{run.uri}-2"}, monkeypatch)
    prints = [Artifact.load(Store(), f"{one.uri}/attributes").manifest.fingerprint for one in (run, changed)]
    assert prints[0] != prints[1]


def test_the_config_for_gsm8k_finds_planted_leaks_and_nothing_else(shared_data, tmp_path, monkeypatch):
    """Verbatim, re-spaced, in capitals, and cut after 60% of the words; the other texts cannot have one."""
    examples = [json.loads(line) for line in (shared_data / "gsm8k_test.jsonl").read_text().splitlines()]
    numbers = [at for at, example in enumerate(examples) if len(example["question"].split()) > 50][:4]
    verbatim, spaced, cased, truncated = (examples[at]["question"] for at in numbers)
    words = truncated.split()
    leaks = {
        "verbatim": verbatim,
        "spaced": spaced.replace(" ", " \t\n  "),
        "cased": cased.upper(),
        "truncated": " ".join(words[: int(0.6 * len(words))]),
    }
    texts = {f"clean{number}": story(number, 12) for number in range(30)}
    texts |= {
        name: f"{story(number, 5)}\n{leak}\n{story(number + 7, 5)}" for number, (name, leak) in enumerate(leaks.items())
    }
    lines = "".join(json.dumps({"id": id, "text": text}) + "\n" for id, text in texts.items())
    (tmp_path / "texts.jsonl").write_text(lines)
    settings = yaml.safe_load((CONFIGS / "decontaminate_gsm8k.yaml").read_text())
    settings["inputs"][0] |= {"path": str(tmp_path / "texts.jsonl"), "id": "id"}
    settings["rules"]["decontamination"]["sets"][0]["path"] = str(shared_data / "gsm8k_test.jsonl")
    run = curate_inline(settings | {"output": str(tmp_path / "run")}, monkeypatch)
    assert {id: row["reason"] for id, row in ledger(run).items()} == dict.fromkeys(leaks, "contaminated")
    found = {row["id"]: row for row in contaminated(run)}
    assert {id: (row["example"], row["column"]) for id, row in found.items()} == {
        id: (number, "question") for id, number in zip(leaks, numbers, strict=True)
    }
    assert [found[id]["fraction"] for id in ("verbatim", "spaced", "cased")] == [1, 1, 1]
    assert 0.5 < found["truncated"]["fraction"] < 0.7
