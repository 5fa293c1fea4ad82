"""A generation: what it writes, what it asks, and that it asks nothing twice."""

import json
import re
import shutil
from collections import Counter
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster.asking.compaction import compact
from raymill.cluster.asking.endpoint import judged
from raymill.cluster.asking.pending import AskingStopped
from raymill.cluster.config import load_values
from raymill.cluster.errors import ConfigError, DataError, StorageError, UserError
from raymill.cluster.frame.dry_run import dry_run_lines
from raymill.cluster.frame.kinds import kind_of
from raymill.cluster.garbage import collect_garbage
from raymill.cluster.inspection import describe
from raymill.cluster.output import Output
from raymill.cluster.stage import Scratch
from raymill.cluster.store.store import Store
from raymill.pipelines.generate.config import GenerateConfig
from raymill.pipelines.generate.job import GenerateJob
from raymill.pipelines.generate.parse import REASONS
from raymill.pipelines.generate.plan import plan_generation
from raymill.pipelines.generate.rows import seeds_of
from raymill.pipelines.generate.stages import REMOVED_SCHEMA, write
from tests.support import inline
from tests.support.damaged import cut_gzip, zeroed_parquet
from tests.support.generate_inline import generate_inline, rows
from tests.support.inline import prepare_inline
from tests.support.model_folders import chat_model
from tests.support.train_inline import train_inline


def test_it_writes_records_a_ledger_the_answers_and_what_they_cost(settings, server, monkeypatch, tmp_path):
    run = generate_inline(settings, monkeypatch)
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        *("records", "removed", "answers", "quarantine", "report.json", "report.html", "manifest.json"),
    }
    assert report["requests"] == report["tries"] == server.stats()["requests"] == report["documents"] == 12
    assert (report["tokens"]["input"], report["tokens"]["output"]) == server.tokens
    assert report["cost"] == pytest.approx((server.tokens[0] * 0.1 + server.tokens[1] * 0.4) / 1e6)
    records, removed = rows(run, "records"), rows(run, "removed")
    assert report["records"] == len(records) > 9
    assert {one["reason"]: one["count"] for one in report["removed"]} == Counter(one["reason"] for one in removed)
    assert {one["reason"] for one in removed} <= {*REASONS}
    # The server answers with one or two pairs, each of which is a record or in the ledger.
    answers = [json.loads(json.loads(row["body"])["choices"][0]["message"]["content"]) for row in stored(tmp_path)]
    assert sum(len(one["pairs"]) for one in answers) == len(records) + len(removed)
    assert str(run).startswith(f"{len(records)} records of 12 requests about 12 documents\n12 tries, ")


def stored(tmp_path, output="out"):
    return rows(tmp_path / output, "answers")


def test_a_record_says_where_it_is_from(settings, server, monkeypatch, tmp_path):
    settings["model"] |= {"revision": "r1", "terms": "no-training"}
    run = generate_inline(settings, monkeypatch)
    keys = {row["key"] for row in stored(tmp_path)}
    for record in rows(run, "records"):
        assert record["prompt"] and record["completion"] and record["quote"]
        assert record["synthetic"] and record["generator"] == "small" and record["revision"] == "r1"
        assert record["terms"] == "no-training" and record["licence"] == "CC-BY-4.0" and record["source"] == "docs"
        assert record["template"] == "qa" and len(record["template_hash"]) == 16
        assert json.loads(record["sampling"])["max_tokens"] == 400 and {*record["requests"]} <= keys
        assert record["provenance"]["operation"] == "generate/qa"
        assert [len(one) for one in record["provenance"]["parents"]] == [32], "a hash, where the seed has no id"
    assert len({record["id"] for record in rows(run, "records")}) == run.report["records"]


def test_columns_of_seeds_may_have_any_type(settings, server, seeds, monkeypatch, tmp_path):
    values = {
        "when": [datetime(2026, 1, 2, 3, 4, tzinfo=UTC), None],
        "price": [Decimal("1.50"), None],
        "file": [b"a\xff", None],
        "days": [{"first": date(2026, 1, 2), "rest": [date(2026, 1, 3)]}, None],
        "number": [1.5, None],
    }
    texts = {"text": [(seeds / f"{number:02}.md").read_text() for number in range(2)]}
    pq.write_table(pa.table(texts | values), tmp_path / "in.parquet")
    settings["inputs"] = [{"path": str(tmp_path / "in.parquet"), "columns": list(values)}]
    assert generate_inline(settings, monkeypatch).report["requests"] == 2
    (first, _) = seeds_of(pq.read_table(tmp_path / "in.parquet"))
    assert {name: first[name] for name in values} == {
        "when": "2026-01-02 03:04:00+00:00", "price": "1.50", "file": "a\ufffd",
        "days": {"first": "2026-01-02", "rest": ["2026-01-03"]}, "number": 1.5,
    }  # fmt: skip


def test_prepare_takes_the_records(settings, monkeypatch, tmp_path):
    generate_inline(settings, monkeypatch)
    prepared = prepare_inline(
        {
            "inputs": [{"path": str(tmp_path / "out/records"), "id": "id"}],
            "output": str(tmp_path / "data"),
            "dedup": None,
        },
        monkeypatch,
    )
    totals, made = prepared.report["totals"], rows(tmp_path / "out", "records")
    assert totals["written"] > 5 and totals["written"] + len(rows(prepared, "removed")) == len(made)
    taken = [row for split in ("train", "validation", "test") for row in rows(prepared, split)]
    assert {row["id"] for row in taken} <= {row["id"] for row in made}
    assert {row["provenance"]["operation"] for row in taken} == {"generate/qa"}


def test_the_same_command_again_asks_nothing(settings, server, monkeypatch):
    first = generate_inline(settings, monkeypatch)
    again = generate_inline(settings, monkeypatch)
    assert not again.fresh and again.manifest["digest"] == first.manifest["digest"]
    assert server.stats()["requests"] == 12


def test_a_new_seed_costs_one_request_and_a_changed_template_all(settings, server, seeds, monkeypatch):
    generate_inline(settings, monkeypatch)
    (seeds / "new.md").write_text("The cable is long. It reaches the other room of the house.")
    assert generate_inline(settings, monkeypatch, replace=True).report["requests"] == 13
    assert server.stats()["requests"] == 13
    settings["make"]["per_document"] = 4
    generate_inline(settings, monkeypatch, replace=True)
    assert server.stats()["requests"] == 26
    settings["make"]["per_document"] = 3
    assert generate_inline(settings, monkeypatch, replace=True).report["tries"] == 26
    assert server.stats()["requests"] == 26, "old answers are still there"


def test_equal_requests_of_different_records_are_asked_once(settings, server, seeds, monkeypatch):
    shutil.copy(seeds / "00.md", seeds / "copy.md")
    run = generate_inline(settings, monkeypatch)
    assert server.stats()["requests"] == run.report["requests"] == 12 and run.report["documents"] == 13
    assert "exact_duplicate" in {one["reason"] for one in run.report["removed"]}


def test_two_runs_share_an_answer_store(settings, server, monkeypatch, tmp_path):
    settings["answers"] = str(tmp_path / "answers")
    first = generate_inline(settings, monkeypatch)
    second = generate_inline(settings | {"output": str(tmp_path / "other")}, monkeypatch)
    assert server.stats()["requests"] == 12 and second.report["tries"] == 0 and second.report["cost"] == 0
    assert rows(first, "records") == rows(second, "records") and not (tmp_path / "other/answers").exists()


def test_samples_are_different_requests(settings, server, monkeypatch):
    run = generate_inline(settings | {"samples": 3}, monkeypatch)
    assert run.report["requests"] == server.stats()["requests"] == server.stats()["different"] == 36


@pytest.mark.parametrize("seed", [1, 2])
def test_with_every_fault_the_records_are_those_without_passing_ones(settings, server, monkeypatch, tmp_path, seed):
    """What lasts, as a refusal, is in the ledger; what passes, as a 500, is asked again."""
    monkeypatch.setattr("raymill.cluster.asking.ask.pause_before", lambda tries, wait: 0.01)
    server.seed, server.share = seed, 0.3
    faulty = generate_inline(settings, monkeypatch)
    assert faulty.report["tries"] == server.stats()["requests"] > 12 and server.stats()["twice"] == 0
    server.faults = ("truncated", "refused", "null", "garbled", "filtered", "bad_request")
    calm = generate_inline(settings | {"output": str(tmp_path / "calm")}, monkeypatch)
    assert rows(faulty, "records") == rows(calm, "records")
    ledgers = ([one | {"answer": None} for one in rows(run, "removed")] for run in (faulty, calm))
    assert next(ledgers) == next(ledgers)


def test_batch_files_make_the_same_records_for_half_the_price(settings, server, monkeypatch, tmp_path):
    monkeypatch.setattr("raymill.cluster.asking.ask_in_batches._POLL_S", 0.01)
    single = generate_inline(settings, monkeypatch)
    settings["model"]["batch"] = True
    changes = {"output": str(tmp_path / "batches")}
    planned = plan_generation(GenerateConfig.model_validate({"kind": "generate"} | settings | changes))
    batched = generate_inline(settings | changes, monkeypatch)
    assert rows(batched, "records") == rows(single, "records") and server.batches
    assert batched.report["cost"] == pytest.approx(single.report["cost"] / 2)
    settings["model"]["batch"] = False
    full = plan_generation(GenerateConfig.model_validate({"kind": "generate"} | settings | changes))
    assert planned["cost"]["high"] <= full["cost"]["high"]
    # A change between the two asks nothing again.
    asked = server.stats()["requests"]
    (tmp_path / "batches/manifest.json").unlink()
    assert generate_inline(settings | changes, monkeypatch).report["cost"] == batched.report["cost"]
    assert server.stats()["requests"] == asked


def test_a_budget_stops_it_and_a_larger_one_continues(settings, server, monkeypatch):
    server.seconds = 0.02
    small = settings | {"budget": 0.0004}
    with pytest.raises(AskingStopped, match=r"the budget of 0.0004 has no room"):
        generate_inline(small, monkeypatch)
    cost = (server.tokens[0] * 0.1 + server.tokens[1] * 0.4) / 1e6
    assert 0 < cost <= 0.0004
    run = generate_inline(settings, monkeypatch)
    assert server.stats()["requests"] == 12 and run.report["cost"] == pytest.approx(
        (server.tokens[0] * 0.1 + server.tokens[1] * 0.4) / 1e6
    )


def test_a_budget_of_nothing_is_refused_with_the_config(settings):
    with pytest.raises(ConfigError, match=r"budget: 0 given; wanted more than 0"):
        load_values(settings | {"kind": "generate", "budget": 0}, "generate")


def test_too_many_requests_without_an_answer_stop_it_and_are_asked_again(settings, server, monkeypatch):
    monkeypatch.setattr("raymill.cluster.asking.ask.pause_before", lambda tries, wait: 0)
    server.share, server.faults = 0.5, ("error",)
    settings["model"]["tries"] = 1
    with pytest.raises(DataError, match=r"no answer to \d of 12 requests \(\d\d\.\d%\) after 1 tries: status 500"):
        generate_inline(settings, monkeypatch)
    answered = server.stats()["answered"]
    server.share = 0
    assert generate_inline(settings, monkeypatch).report["records"] > 0 and server.stats()["answered"] == 12 > answered


def test_an_unfinished_run_is_continued_by_units(settings, server, monkeypatch):
    class Once(inline.InlineEngine):
        def _round(self, stage, missing, records, failures):
            if stage.name.startswith("ask"):
                raise UserError("stopped")
            super()._round(stage, missing, records, failures)

    with pytest.raises(UserError, match="stopped"):
        generate_inline(settings, monkeypatch, engine=Once)
    assert server.stats()["requests"] == 0 and generate_inline(settings, monkeypatch).report["requests"] == 12


@pytest.mark.parametrize(
    ("make", "said"),
    [
        ({"template": "nothing"}, ["nothing is no template of Raymill; wanted one of chat, classify,"]),
        (
            {"template": "qa", "per_dokument": 3, "langauge": "German"},
            ["make.per_dokument: no variable of the template. Did you mean per_document?",
             "make.langauge: no variable of the template. Did you mean language?"],
        ),
        ({"template": "classify"}, ["make.labels: missing; wanted a list of at least one value."]),
        ({"template": "classify", "labels": "billing"}, ["make.labels: 'billing' given; wanted a list of at least"]),
        ({"template": "qa", "per_document": "three"}, ["make.per_document: 'three' given; wanted a number above 0."]),
        ({"template": "qa", "per_document": 0}, ["make.per_document: 0 given; wanted a number above 0."]),
        ({"template": "evolve", "direction": "deper"}, ["make.direction: 'deper' given; wanted one of: deeper"]),
        ({"template": "Ask {{ text"}, ["is no Jinja2 template"]),
        ({"template": "Ask {{ txt }}"}, ["make.template, prompt: no txt. Did you mean text?", "no field of the seed"]),
        ({"template": "Write a text.\n"}, ["make.template, prompt: no field of the seed, so all seeds have"]),
        (
            {"template": {"prompt": "{{ text }}", "record": {"text": "{{ seed.qestion }}{{ anser.text }}"}}},
            ["make.template, record.text: no anser. Did you mean answer?", "record.text: no seed.qestion."],
        ),
        ({"template": {"prompt": "{{ text }}", "record": {"question": "a"}}}, ["record: has question; wanted"]),
        (
            {"template": {"prompt": "{{ text }}", "difers": "text", "keep": 3}},
            ["make.template, difers: no such setting.", "make.template, keep: 3 given; wanted text"],
        ),
        ({"template": {"record": {"text": "a"}}}, ["prompt"]),
    ],
)  # fmt: skip
def test_mistakes_in_the_template_are_found_before_anything_is_asked(settings, server, monkeypatch, make, said):
    with pytest.raises(ConfigError) as raised:
        generate_inline(settings | {"make": make}, monkeypatch)
    assert all(one in str(raised.value) for one in said), str(raised.value)
    assert server.stats()["requests"] == 0 and "steps.0" not in str(raised.value)


def test_a_missing_key_is_named(settings, monkeypatch):
    settings["model"]["key_env"] = "RAYMILL_NO_SUCH_KEY"
    with pytest.raises(ConfigError, match="the environment variable RAYMILL_NO_SUCH_KEY is not set") as raised:
        generate_inline(settings, monkeypatch)
    assert raised.value.where == "model.key_env" and raised.value.fix == "Set RAYMILL_NO_SUCH_KEY."


def test_the_key_is_in_no_file(settings, server, monkeypatch, tmp_path):
    monkeypatch.setenv("LLM_KEY", "sk-canary-0123456789abcdef")
    settings["model"]["key_env"] = "LLM_KEY"
    generate_inline(settings, monkeypatch)
    assert b"Bearer sk-canary-0123456789abcdef" in server.head
    assert not any(b"sk-canary" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_model_folder_travels_with_its_absolute_path(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()
    for given, path in (("small", str(tmp_path / "small")), ("acme/small", "acme/small")):
        settings["model"] = {"path": given}
        config = GenerateConfig.model_validate({"kind": "generate", "name": "test"} | settings | {"budget": None})
        assert GenerateJob(config).submitted()["model"]["path"] == path


def test_the_output_of_a_training_is_a_model_that_writes_records(settings, monkeypatch, tmp_path):
    """It was taught one answer, so each record has that one."""
    for name in ("a", "b", "c", "d"):
        (tmp_path / f"docs/{name}.md").write_text(f"The lamp {name} is green.")
    template = {"prompt": "Say: {{ text }}", "record": {"prompt": "{{ seed.text }}", "completion": "{{ text }}"}}
    (tmp_path / "say.yaml").write_text(json.dumps(template))
    taught = [{"prompt": f"Say: The lamp {name} is green.", "completion": "Hold the button."} for name in "abcd"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in taught))
    training = {
        "corpus": {"path": str(tmp_path / "a.jsonl")}, "model": chat_model(tmp_path / "base", 1), "method": "lora",
        "lora": {"rank": 8}, "steps": 60, "optimizer": {"learning_rate": 1e-2}, "tokens_per_step": 64,
        "output": str(tmp_path / "sft"),
    }  # fmt: skip
    made = train_inline(training, monkeypatch)
    changes = {
        "inputs": [{"source": "docs", "path": f"{tmp_path}/docs/[a-d].md"}], "model": {"path": made.uri},
        "make": {"template": str(tmp_path / "say.yaml")}, "budget": None,
        "sampling": {"temperature": 0, "max_tokens": 24},
    }  # fmt: skip
    run = generate_inline(settings | changes, monkeypatch)
    assert {one["completion"] for one in rows(run, "records")} == {"Hold the button."}, rows(run, "removed")


def test_a_plan_asks_nothing_and_equals_what_a_run_then_costs(settings, server, monkeypatch, tmp_path):
    config = GenerateConfig.model_validate({"kind": "generate", "name": "test"} | settings)
    before = plan_generation(config)
    assert server.stats()["requests"] == 0 and not (tmp_path / "out").exists() and before["requests"] == 12
    assert before["output_tokens"]["high"] == 12 * 400 and "estimated by bytes" in str(before)
    report = generate_inline(settings, monkeypatch).report
    assert {*report} | {"embeddings"} == {*kind_of("generate").report}
    assert before["input_tokens"]["low"] < report["tokens"]["input"] < before["input_tokens"]["high"]
    assert before["cost"]["low"] < report["cost"] < before["cost"]["high"]
    after = plan_generation(config)
    assert after["cost"]["expected"] == pytest.approx(report["cost"]) and "budget         5 is enough" in str(after)
    more = plan_generation(config, documents=1_000_000)
    assert more["requests"] == 1_000_000 and more["cost"]["expected"] == pytest.approx(report["cost"] / 12 * 1e6)
    assert "budget         5 is too small" in str(more) and server.stats()["requests"] == 12


def test_a_dry_run_shows_the_template_the_model_and_all_that_is_set(settings, server, tmp_path):
    config = GenerateConfig.model_validate({"kind": "generate", "name": "test"} | settings)
    lines = "\n".join(dry_run_lines(config))
    assert "12 files" in lines and "template questions that a document answers" in lines
    assert f"model    small at {server.url}" in lines and "per_document: 3" in lines and "budget: 5.0" in lines
    _, _, shown = lines.partition("Settings that differ from the defaults")
    assert "endpoint:" in shown and not {"engine", "tries", "structured"} & set(re.findall(r"\w+", shown)), shown
    assert server.stats()["requests"] == 0 and not (tmp_path / "out").exists()


def test_rows_that_are_lost_in_the_seeds_are_warnings_and_in_the_share(settings, monkeypatch, tmp_path):
    texts = [f"Guide number {number} is about the lamp of the router." for number in range(200)]
    cut = cut_gzip(tmp_path / "x.jsonl.gz", [json.dumps({"text": text}) for text in texts])
    zeroed = zeroed_parquet(tmp_path / "x.parquet", texts)
    settings["inputs"] = [{"source": "cut", "path": str(cut)}, {"source": "zeroed", "path": str(zeroed)}]
    with pytest.raises(DataError, match=r"41 of \d+ documents could not be read \(1\d\.\d%.*(?s:.*)  40 corrupt_page"):
        generate_inline(settings, monkeypatch)
    run = generate_inline(settings | {"execution": {"max_bad_documents": 0.2}}, monkeypatch)
    first, second, third = run.warnings
    assert first.startswith("Source zeroed: 40 rows were lost (corrupt_page, first ")
    assert second.startswith("Source cut: 1 time the rest of a file was lost (truncated, first ")
    assert f"warning: {first}\nwarning: {second}" in str(run)
    assert third == "41 documents could not be read; see `quarantine`."


def test_a_run_without_a_record_says_why_and_has_an_exit_code(settings, server, monkeypatch):
    server.share, server.faults = 2, ("refused",)
    run = generate_inline(settings, monkeypatch)
    assert run.exit_code == 2 and run.report["records"] == 0
    assert "removed: 12 refused (the model refused; the first: I cannot help with that.)" in str(run)


def test_a_server_that_refuses_every_request_is_named_and_asked_again_when_it_is_repaired(
    settings, server, monkeypatch
):
    server.share, server.faults = 2, ("bad_request",)
    with pytest.raises(
        DataError, match=r"refused all of 12 requests: status 400 \(This request is refused\)"
    ) as raised:
        generate_inline(settings, monkeypatch)
    assert str(raised.value).startswith(server.url)
    server.share = 0
    assert generate_inline(settings, monkeypatch).report["records"] > 0 and server.stats()["requests"] == 24


@pytest.mark.parametrize(("status", "setting"), [(401, "model.key_env"), (404, "the model's `endpoint`")])
def test_a_server_that_stops_the_run_is_named_with_what_to_look_at(settings, server, monkeypatch, status, setting):
    server.status = status
    with pytest.raises(
        AskingStopped, match=rf"^{server.url}/chat/completions: status {status} \(refused for all\)\. "
    ) as e:
        generate_inline(settings, monkeypatch)
    assert setting in str(e.value)


def test_too_many_unreadable_seeds_and_seeds_without_a_field_cost_nothing(settings, server, monkeypatch, tmp_path):
    (tmp_path / "cut.jsonl").write_text('{"text": "A seed."}\n{"text": "Another')
    with pytest.raises(DataError, match="1 of 2 documents could not be read"):
        generate_inline(settings | {"inputs": [str(tmp_path / "cut.jsonl")]}, monkeypatch)
    (tmp_path / "cut.jsonl").write_text('{"text": "A seed."}\n')
    inputs = [{"path": str(tmp_path / "cut.jsonl"), "columns": ["question"]}]
    make = {"template": {"prompt": "{{ text }}", "record": {"text": "{{ seed.question }}"}}}
    with pytest.raises(DataError, match=r"none of 1 seed makes a request: .* needs \(question\)\. Nothing was asked"):
        generate_inline(settings | {"inputs": inputs, "make": make, "output": str(tmp_path / "b")}, monkeypatch)
    assert server.stats()["requests"] == 0


def test_a_unit_may_ask_for_hours(settings):
    config = GenerateConfig.model_validate({"kind": "generate"} | settings)
    assert config.execution.stall_s == 86_400 > config.model.give_up_s and config.name == "out"


def test_a_server_that_moved_to_another_address_is_the_same_model(settings, server, monkeypatch):
    generate_inline(settings, monkeypatch)
    settings["model"]["endpoint"] = server.url.replace("127.0.0.1", "localhost")
    assert not generate_inline(settings, monkeypatch).fresh and server.stats()["requests"] == 12


def test_seeds_without_a_field_of_the_template_are_in_the_ledger(settings, server, monkeypatch, tmp_path):
    questions = [{"text": f"Text {n}.", "question": None if n % 3 else f"What is {n}?"} for n in range(9)]
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps(one) + "\n" for one in questions))
    inputs = [{"path": str(tmp_path / "seeds.jsonl"), "columns": ["question"]}]
    make = {"template": "Answer {{ question }} from {{ text }}"}
    run = generate_inline(settings | {"inputs": inputs, "make": make, "dedup": None}, monkeypatch)
    removed = rows(run, "removed")
    assert run.report["requests"] == run.report["records"] == 3
    assert [(one["reason"], one["key"], one["requests"]) for one in removed] == [("missing_field", None, [])] * 6
    assert {one["value"] for one in removed} == {"question"}


@pytest.mark.parametrize("template", ["preference", "instruction", "qa"])
def test_every_request_is_in_a_record_or_in_the_ledger(template, settings, server, monkeypatch, tmp_path):
    server.share, server.faults = 0.6, ("refused", "garbled", "truncated", "null", "bad_request")
    run = generate_inline(settings | {"make": {"template": template}, "samples": 3}, monkeypatch)
    asked = {row["key"] for row in stored(tmp_path)}
    named = {key for name in ("records", "removed") for row in rows(run, name) for key in row["requests"]}
    assert asked == named and len(asked) == run.report["requests"] > 30 and len(rows(run, "removed")) > 10


def test_duplicates_are_found_in_files_of_several_row_groups(tmp_path):
    content = {"prompt": "Q", "source": "docs", "requests": ["k"], "provenance": {"parents": ["seed"]}}
    records = pa.Table.from_pylist([{"id": str(number), **content} for number in range(4)])
    group = {"unit": 0, "row": 2, "reason": "exact_duplicate", "partner": "0", "similarity": 1.0}
    for name, table in (("records", records), ("groups", pa.Table.from_pylist([group]))):
        pq.write_table(table, tmp_path / name, row_group_size=1)
    unit = ([str(tmp_path / "records")], [str(tmp_path / "groups")], [], [], 0)
    with Scratch((Output("records", records.schema), Output("removed", REMOVED_SCHEMA))) as scratch:
        write(Store(), unit, scratch)
        files = scratch.finish()
        kept, gone = (pq.read_table(files[name][0][1]).to_pylist() for name in ("records", "removed"))
    assert [row["id"] for row in kept] == ["0", "1", "3"] and [row["partner"] for row in gone] == ["0"]


SCORED = {
    "prompt": "{{ text }}",
    "answer": {"type": "object", "properties": {"score": {"type": "number"}, "said": {"type": "string"}}},
    "keep": "score >= least",
    "record": {"text": "{{ said }} of {{ seed.text }}"},
    "variables": {"least": 3},
}


def answered_with(content: str, monkeypatch):
    """Every answer of the server has this JSON text as its content."""
    body = f'{{"choices": [{{"finish_reason": "stop", "message": {{"content": {content}}}}}]}}'

    async def send(self, request):
        return judged(200, {}, body.encode(), 0.0)

    monkeypatch.setattr("raymill.cluster.asking.endpoint.Endpoint.send", send)


@pytest.mark.parametrize(
    ("answer", "made"),
    [
        ({"score": 5, "said": "Yes", "seed": {"text": "forged"}, "text": "forged"}, "Yes of Guide number 0 "),
        ({"score": 1, "said": "No", "least": 0}, None),
    ],
)
def test_an_answer_hides_neither_the_seed_nor_a_variable(settings, answer, made, monkeypatch):
    answered_with(json.dumps(json.dumps(answer)), monkeypatch)
    run = generate_inline(settings | {"make": {"template": SCORED}, "dedup": None}, monkeypatch)
    texts = [one["text"] for one in rows(run, "records")]
    assert any(text.startswith(made) for text in texts) and len(texts) == 12 if made else not texts


@pytest.mark.parametrize("said", ["\\ud800", "\\\\ud800"])
def test_an_answer_that_is_no_unicode_text_makes_records(settings, said, monkeypatch):
    answered_with(json.dumps('{"score": 5, "said": "Yes SAID"}').replace("SAID", said), monkeypatch)
    run = generate_inline(settings | {"make": {"template": SCORED}, "dedup": None}, monkeypatch)
    assert {one["text"][:5] for one in rows(run, "records")} == {"Yes ?"}


def test_a_number_without_bound_is_no_json(settings, monkeypatch):
    answered_with(json.dumps('{"score": -1e999, "said": "x"}'), monkeypatch)
    run = generate_inline(settings | {"make": {"template": SCORED}}, monkeypatch)
    assert {one["reason"] for one in rows(run, "removed")} == {"unparsable"}


def test_a_link_out_of_the_answer_store_is_refused_before_anything_is_written(settings, server, monkeypatch, tmp_path):
    (tmp_path / "private").mkdir()
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/_open").symlink_to(tmp_path / "private")
    with pytest.raises(StorageError, match=r"_open: a link to .*private"):
        generate_inline(settings | {"answers": str(tmp_path / "shared")}, monkeypatch)
    assert not server.stats()["requests"] and not [*(tmp_path / "private").iterdir()]


def test_a_stored_body_that_is_no_answer_is_asked_again(settings, server, monkeypatch, tmp_path):
    generate_inline(settings, monkeypatch)
    (file, *_) = sorted((tmp_path / "out/answers").glob("*.parquet"))
    table = pq.read_table(file)
    at = table.schema.get_field_index("body")
    pq.write_table(table.set_column(at, "body", pa.array([b"["] * table.num_rows, pa.large_binary())), file)
    asked = server.stats()["requests"]
    again = settings | {"output": str(tmp_path / "again"), "answers": str(tmp_path / "out/answers")}
    assert generate_inline(again, monkeypatch).report["records"] and server.stats()["requests"] > asked


def test_inspect_lists_the_answer_store_and_gc_joins_its_small_files(settings, server, monkeypatch, tmp_path):
    monkeypatch.setattr("raymill.cluster.asking.backends.RANGE_REQUESTS", 3)
    run = generate_inline(settings, monkeypatch)
    listed = str(describe(run.uri))
    assert "answers " in listed and "4 files, " in listed and f'raymill.inspect("{run.uri}/answers")' in listed
    found = describe(f"{run.uri}/answers")
    (counts,) = found["runs"].values()
    assert counts["tries"] == counts["answered"] == 12 and counts["input_tokens"] == server.tokens[0]
    assert "12 tries (12 answered)" in str(found)
    before = stored(tmp_path)
    assert "answers/: 4 small files of 4 files" in str(collect_garbage(run.uri)) and len(stored_files(tmp_path)) == 4
    assert "joined; no answer is removed" in str(collect_garbage(run.uri, delete=True))
    assert len(stored_files(tmp_path)) == 1
    assert sorted(stored(tmp_path), key=str) == sorted(before, key=str)
    (tmp_path / "out/manifest.json").unlink()
    again = generate_inline(settings, monkeypatch)
    assert server.stats()["requests"] == 12 and rows(again, "records") == rows(run, "records")
    assert "small file" not in str(collect_garbage(run.uri))


def stored_files(tmp_path):
    return sorted((tmp_path / "out/answers").glob("*.parquet"))


def test_a_run_that_ends_joins_the_small_files_of_its_store(settings, server, monkeypatch, tmp_path):
    monkeypatch.setattr("raymill.cluster.asking.backends.RANGE_REQUESTS", 1)
    monkeypatch.setattr("raymill.pipelines.generate.job.compact", partial(compact, fewest=4))
    run = generate_inline(settings, monkeypatch)
    assert len(stored_files(tmp_path)) == 1 and len(stored(tmp_path)) == 12
    (tmp_path / "out/manifest.json").unlink()
    again = generate_inline(settings, monkeypatch)
    assert server.stats()["requests"] == 12 and rows(again, "records") == rows(run, "records")
