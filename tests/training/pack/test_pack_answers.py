"""Answers that were compared or judged, from rows in the forms of several tools to packed rows."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from transformers import PreTrainedTokenizerFast

from raymill.cluster.errors import ConfigError
from raymill.cluster.examples.splits import SPLITS
from raymill.training.pack import documents, tokenise
from raymill.training.pack.documents import Chat
from raymill.training.pack.template import CHATML
from raymill.training.tokenizer.preview import preview, print_previews
from tests.support.chat_templates import template_files
from tests.support.inline import prepare_inline
from tests.support.pack_runs import packed_by, settings_of, write_lines
from tests.support.packed_examples import config as plain_config
from tests.support.tool_chats import RESULT, TOOL, call

MODEL = {"config": {"model_type": "llama", "vocab_size": 400}, "tokenizer": "train", "chat_template": "chatml"}
HOW = {
    "model": MODEL,
    "sequence_length": 128,
    "tokens_per_step": 128,
    "split": {"train": 1, "validation": 0, "test": 0},
}


def turns(*said: str) -> list[dict]:
    return [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(said)]


def hh(*said: str) -> str:
    return "".join(f"\n\n{('Human', 'Assistant')[at % 2]}: {text}" for at, text in enumerate(said))


def pairs(number: int = 8) -> list[dict]:
    return [
        {"id": f"p{at}", "prompt": f"what is {at}?", "chosen": f"it is {at}", "rejected": f"a fox {at}"}
        for at in range(number)
    ]


def packed(tmp_path, rows: list[dict], **more):
    return packed_by(write_lines(tmp_path / "rows.jsonl", rows), tmp_path / "out", **HOW | {"objective": "dpo"} | more)


def documents_of(run, split: str = "train") -> list[dict]:
    """The documents of all rows: id, ids, trained, judgement."""
    found = []
    for row in run.corpora["corpus-0"][split].table().to_pylist():
        ends = np.cumsum(row["lengths"])
        for at, (start, end) in enumerate(zip(ends - row["lengths"], ends, strict=True)):
            found.append(
                {
                    "id": row["documents"][at],
                    "ids": row["ids"][start:end],
                    "trained": row["labels"][start:end],
                    "judgement": row["judgements"][at],
                }
            )
    return found


def read(run, ids: list[int]) -> str:
    return PreTrainedTokenizerFast.from_pretrained(run.tokenizer_uri).decode(ids)


def test_a_pair_is_two_documents_of_one_row_that_begin_with_the_same_question(tmp_path):
    run = packed(tmp_path, pairs(), sequence_length=256, tokens_per_step=256)
    found = documents_of(run)
    assert len(found) == 16
    for chosen, rejected in zip(found[::2], found[1::2], strict=True):
        assert chosen["id"] == rejected["id"]
        number = chosen["id"][1:]
        question = chosen["ids"][: chosen["trained"].index(True)]
        assert question == rejected["ids"][: rejected["trained"].index(True)]
        assert f"what is {number}?" in read(run, question)
        answers = [read(run, np.array(one["ids"])[one["trained"]].tolist()) for one in (chosen, rejected)]
        assert answers == [f"it is {number}<|im_end|>", f"a fox {number}<|im_end|>"]
        assert not chosen["trained"][0] and not rejected["trained"][0]
        assert np.isnan([chosen["judgement"], rejected["judgement"]]).all()
    rows = run.corpora["corpus-0"]["train"].table()
    assert len(rows) < 8  # several pairs a row
    assert all(len(ids) <= 256 for ids in rows["ids"].to_pylist())


def test_a_tokenizer_is_fitted_to_the_question_and_both_answers(tmp_path):
    rows = [{"prompt": f"lighthouse {at}", "chosen": f"harbour {at}", "rejected": f"meadow {at}"} for at in range(99)]
    run = packed(tmp_path, rows)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(run.tokenizer_uri)
    assert all(len(tokenizer.tokenize(word)) == 1 for word in ("lighthouse", "harbour", "meadow"))


FORMS = {
    "messages beside a prompt": {
        "prompt": turns("a b c?"),
        "chosen": turns("x", "y")[1:],
        "rejected": turns("", "z")[1:],
    },
    "whole conversations": {"chosen": turns("a b c?", "y"), "rejected": turns("a b c?", "z")},
    "dialogues of hh-rlhf": {"chosen": hh("a b c?", "y"), "rejected": hh("a b c?", "z")},
    "LLaMA-Factory's Alpaca": {"instruction": "a b", "input": "c?", "chosen": "y", "rejected": "z"},
    "LLaMA-Factory's ShareGPT": {
        "conversations": [{"from": "human", "value": "a b c?"}],
        "chosen": {"from": "gpt", "value": "y"},
        "rejected": {"from": "gpt", "value": "z"},
    },
    "UltraFeedback, binarised": {
        "prompt": "a b c?",
        "chosen": turns("a b c?", "y"),
        "rejected": turns("a b c?", "z"),
        "score_chosen": 8.0,
        "score_rejected": 3.0,
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_the_forms_of_other_tools_are_recognised(tmp_path, form):
    run = packed(tmp_path, [FORMS[form]] * 2)
    chosen, rejected, *_ = documents_of(run)
    assert "a b" in read(run, chosen["ids"]) and "c?" in read(run, chosen["ids"])
    assert read(run, np.array(chosen["ids"])[chosen["trained"]].tolist()) == "y<|im_end|>"
    assert read(run, np.array(rejected["ids"])[rejected["trained"]].tolist()) == "z<|im_end|>"


def test_earlier_answers_are_a_part_of_the_question(tmp_path):
    before = ("1?", "an earlier answer", "2?")
    for number, rows in enumerate(
        (
            [{"chosen": turns(*before, "y"), "rejected": turns(*before, "z")}],
            [{"prompt": turns(*before), "chosen": turns("", "y")[1:], "rejected": turns("", "z")[1:]}],
            [{"chosen": hh(*before, "y"), "rejected": hh(*before, "z")}],
        )
    ):
        (folder := tmp_path / str(number)).mkdir()
        run = packed(folder, rows, sequence_length=256, tokens_per_step=256)
        for one, answer in zip(documents_of(run), ("y", "z"), strict=True):
            assert "an earlier answer" in read(run, one["ids"])
            assert not run.passed_over  # no note that earlier answers are not trained on
            assert read(run, np.array(one["ids"])[one["trained"]].tolist()) == f"{answer}<|im_end|>"


CALLED = {"role": "assistant", "content": "", "tool_calls": [call()]}
GIVEN = {"role": "tool", "content": RESULT, "name": "get_weather", "tool_call_id": "call_1"}
SAID, OTHER = ({"role": "assistant", "content": text} for text in ("Yes. It rains.", "No idea of it."))
ASKED = {"role": "user", "content": "Will it rain?"}
OF_TOOLS = {"sequence_length": 2048, "tokens_per_step": 2048}


def of_templates(name: str) -> dict:
    return {"model": MODEL | {"chat_template": str(template_files()[name])}} | OF_TOOLS


@pytest.mark.parametrize("template", ["qwen3_training", "qwen2_5"])
@pytest.mark.parametrize("form", ["trl", "implicit", "json_text", "parquet"])
def test_answers_that_call_tools_are_rendered_with_the_tools(tmp_path, template, form):
    asked = [{"role": "system", "content": "Help."}, ASKED]
    row = {"prompt": asked, "chosen": [CALLED, GIVEN, SAID], "rejected": [OTHER], "tools": [TOOL]}
    if form == "implicit":
        row = {"chosen": asked + row["chosen"], "rejected": asked + row["rejected"], "tools": [TOOL]}
    if form in ("json_text", "parquet"):
        row |= {"tools": json.dumps([TOOL])}
    path = write_lines(tmp_path / "rows.jsonl", [row] * 2)
    if form == "parquet":  # each message has all keys, with null where it lacks them
        pq.write_table(pa.Table.from_pylist([row] * 2), path := str(tmp_path / "rows.parquet"))
    run = packed_by(path, tmp_path / "out", **HOW | {"objective": "dpo"} | of_templates(template))
    chosen, rejected, *_ = documents_of(run)
    question, other = (one["ids"][: one["trained"].index(True)] for one in (chosen, rejected))
    assert question == other and "The weather of the next days." in read(run, question)
    said = read(run, np.array(chosen["ids"])[chosen["trained"]].tolist())
    assert "get_weather" in said and "Paris" in said and "It rains." in said and "celsius" not in said
    assert "celsius" in read(run, chosen["ids"]) and "celsius" not in read(run, rejected["ids"])
    assert "No idea of it." in read(run, np.array(rejected["ids"])[rejected["trained"]].tolist())


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_an_answer_whose_calls_the_template_changes_later_is_left_out(tmp_path, objective):
    """Qwen3's template writes an empty thought before a call that is the last message, and none before others."""
    row = {"prompt": [ASKED], "chosen": [CALLED, GIVEN, SAID], "rejected": [OTHER], "tools": [TOOL]}
    run = packed(tmp_path, [row, *pairs(2)], objective=objective, **of_templates("qwen3"))
    assert run.tokenised("corpus-0")["left_out/answer_in_several_renderings"] == 1
    assert len(documents_of(run)) == 4 + (objective == "kto")


def test_a_call_that_both_answers_follow_is_a_part_of_the_question(tmp_path):
    rows = [{"prompt": [ASKED, CALLED, GIVEN], "chosen": [SAID], "rejected": [OTHER], "tools": [TOOL]}] * 2
    run = packed(tmp_path, rows, **of_templates("qwen3"))
    for one, answer in zip(documents_of(run)[:2], (SAID, OTHER), strict=True):
        assert "celsius" in read(run, one["ids"][: one["trained"].index(True)])
        said = read(run, np.array(one["ids"])[one["trained"]].tolist())
        assert answer["content"] in said and "get_weather" not in said


@pytest.mark.parametrize("form", ["prompt and completion", "messages", "pairs"])
def test_a_judged_answer_has_its_calls(tmp_path, form):
    answer = [CALLED, GIVEN, SAID]
    row = {
        "prompt and completion": {"prompt": [ASKED], "completion": answer, "label": True},
        "messages": {"messages": [ASKED, *answer], "label": True},
        "pairs": {"prompt": [ASKED], "chosen": answer, "rejected": [OTHER]},
    }[form]
    run = packed(tmp_path, [row | {"tools": [TOOL]}] * 2, objective="kto", **of_templates("qwen3_training"))
    one = next(one for one in documents_of(run) if one["judgement"])
    assert "The weather of the next days." in read(run, one["ids"])
    said = read(run, np.array(one["ids"])[one["trained"]].tolist())
    assert "get_weather" in said and "It rains." in said and "celsius" not in said


def test_a_preference_with_tools_is_the_same_through_prepare(tmp_path, monkeypatch):
    rows = [
        {
            "id": f"p{at}",
            "prompt": [ASKED | {"content": f"Will it rain on day {at}?"}],
            "chosen": [CALLED, GIVEN, SAID | {"content": "Tomorrow it is sunny, and the day after it rains."}],
            "rejected": [OTHER | {"content": "I have no idea of the weather of the next days."}],
            "tools": [TOOL],
        }
        for at in range(3)
    ]
    source = {"path": write_lines(tmp_path / "rows.jsonl", rows), "id": "id"}
    settings = {"inputs": [source], "records": {"shape": "preference_messages"}, "dedup": None}
    split = {"split": {"train": 1, "validation": 0, "test": 0}}
    done = prepare_inline(settings | split | {"output": str(tmp_path / "prepared")}, monkeypatch)
    more = HOW | of_templates("qwen3_training") | {"objective": "dpo"}
    runs = (packed_by(done.uri, tmp_path / "a", **more), packed_by(source["path"], tmp_path / "b", **more))
    found, expected = ([(one["id"], one["ids"], one["trained"]) for one in documents_of(run)] for run in runs)
    assert sorted(found) == sorted(expected) and len(found) == 6


def test_margins_are_kept(tmp_path):
    rows = [row | {"margin": margin} for row, margin in zip(pairs(), (0.5, None, 2, -1, 0, 1, 1, 1), strict=True)]
    found = {one["id"]: one["judgement"] for one in documents_of(packed(tmp_path, rows, objective="reward"))}
    assert [found[f"p{at}"] for at in (0, 2, 3, 4)] == [0.5, 2, -1, 0] and np.isnan(found["p1"])


def test_what_cannot_be_compared_is_left_out_for_a_reason(tmp_path):
    rows = [
        *pairs(4),
        {"prompt": "a?", "chosen": "same", "rejected": " same "},
        {"prompt": "a?", "chosen": "", "rejected": "b"},
        {"prompt": "a?", "chosen": "b", "rejected": None},
        {"prompt": "a?", "chosen": "b", "rejected": "c", "margin": "wide"},
        *({"prompt": "a?", "chosen": "b", "rejected": "c", "margin": margin} for margin in (1e308, 1e39, -1001, "nan")),
        {"prompt": "a?", "chosen": turns("a?", "b"), "rejected": turns("d?", "c")},
        {"prompt": "a?", "chosen": "long " * 200, "rejected": "c"},
    ]
    rows = [row | {"margin": row.get("margin", 1.0)} for row in rows]
    run = packed(tmp_path, rows, objective="reward")
    reasons = {
        name.removeprefix("left_out/"): int(count)
        for name, count in run.tokenised("corpus-0").items()
        if name.startswith("left_out/")
    }
    assert reasons == {"equal_answers": 1, "empty": 2, "bad_margin": 5, "different_questions": 1}
    assert run.packed("corpus-0")["documents_dropped"] == 1
    assert {one["id"] for one in documents_of(run)} == {"p0", "p1", "p2", "p3"}


def test_labelled_answers_and_pairs_as_such(tmp_path):
    rows = [{"id": f"a{at}", "prompt": f"{at}?", "completion": f"{at}.", "label": bool(at % 2)} for at in range(6)]
    (tmp_path / "one").mkdir(), (tmp_path / "two").mkdir()
    found = documents_of(packed(tmp_path / "one", rows, objective="kto"))
    assert {one["id"]: one["judgement"] for one in found} == {f"a{at}": at % 2 for at in range(6)}
    of_pairs = documents_of(packed(tmp_path / "two", pairs(3), objective="kto"))
    assert {one["id"]: one["judgement"] for one in of_pairs} == {
        f"p{at}/{name}": value for at in range(3) for name, value in (("chosen", 1), ("rejected", 0))
    }


def test_answers_to_one_question_are_in_one_split(tmp_path):
    rows = [{"prompt": f"question {at % 40}?", "chosen": f"good {at}", "rejected": f"bad {at}"} for at in range(400)]
    split = {"train": 0.5, "validation": 0.25, "test": 0.25}
    run = packed(tmp_path, rows, split=split)
    seen: dict[str, set[str]] = {}
    for name in SPLITS:
        for one in documents_of(run, name):
            seen.setdefault(read(run, one["ids"][: one["trained"].index(True)]), set()).add(name)
    assert len(seen) == 40 and all(len(names) == 1 for names in seen.values())


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"objective": "dpo", "corpus": [{"text": "a"}]}, "no columns of answers that were compared"),
        (
            {"objective": "kto", "corpus": [{"prompt": "a", "completion": "b"}]},
            "no columns of answers that were judged",
        ),
    ],
)
def test_other_columns_are_refused(tmp_path, more, words):
    rows = more.pop("corpus")
    with pytest.raises(ConfigError, match=words):
        packed(tmp_path, rows, **more)


def test_a_label_that_is_neither_true_nor_false_is_left_out(tmp_path):
    labels = [True, "False", 1, "good", None]
    rows = [{"prompt": f"{at}?", "completion": "b", "label": label} for at, label in enumerate(labels)]
    run = packed(tmp_path, rows, objective="kto")
    assert sorted(one["judgement"] for one in documents_of(run)) == [0, 1, 1]
    assert run.tokenised("corpus-0")["left_out/bad_label"] == 2


def test_rows_of_texts_have_the_columns_of_earlier_versions(tmp_path):
    run = packed_by(write_lines(tmp_path / "rows.jsonl", [{"text": "a b c"}] * 4), tmp_path / "out", **HOW)
    assert "judgements" not in run.corpora["corpus-0"]["train"].schema.names
    assert "records" not in json.loads(run.store.read_bytes(f"{run.uri}/pack.json"))["settings"]


def test_replace_removes_what_a_reference_model_gave_for_earlier_rows(tmp_path):
    def computed(run) -> Path:
        part = (
            tmp_path
            / "out/packed/reference"
            / run.corpora["corpus-0"]["train"].manifest.digest[:32]
            / "key/part.parquet"
        )
        part.parent.mkdir(parents=True)
        part.write_bytes(b"1")
        return part

    of_earlier = computed(packed(tmp_path, pairs()))
    of_rows = computed(packed(tmp_path, pairs(9), replace=True))
    assert not of_earlier.exists()
    packed(tmp_path, pairs(9), replace=True)
    assert of_rows.exists()


def test_a_preview_shows_both_answers_apart(tmp_path):
    rows = [{"prompt": "what is 1?", "chosen": "it is 1", "rejected": "a fox", "margin": 0.5}]
    shown = preview_text(tmp_path, rows, objective="reward")
    question = "<|im_start|>user↵\nwhat is 1?<|im_end|>↵\n<|im_start|>assistant↵\n"
    chosen, rejected = (f"{question}⟦{answer}<|im_end|>⟧" for answer in ("it is 1", "a fox"))
    assert re.search(r"a chosen and a rejected answer, margin 0\.5; \d+ of \d+ tokens trained on", shown)
    found = re.search(r"chosen, (\d+) tokens:\n(.*?)\nrejected, (\d+) tokens:\n(.*?)\n──", shown, re.DOTALL)
    assert found and [found[2].rstrip("↵\n"), found[4].rstrip("↵\n")] == [chosen, rejected]
    assert f" of {int(found[1]) + int(found[3])} tokens" in shown


def test_a_preview_says_whether_an_answer_is_desirable(tmp_path):
    shown = preview_text(tmp_path, [{"prompt": "a?", "completion": "b", "label": False}], objective="kto")
    assert "prompt, completion, not desirable; " in shown and "chosen" not in shown and "⟦b<|im_end|>⟧" in shown


def preview_text(tmp_path, rows: list[dict], **more) -> str:
    stream = io.StringIO()
    config = plain_config(**settings_of(write_lines(tmp_path / "rows.jsonl", rows), tmp_path / "out", **HOW | more))
    print_previews(preview(config, 1), Console(file=stream, width=400, highlight=False, color_system=None))
    return stream.getvalue()


def test_a_first_document_that_the_template_refuses_is_left_out_if_it_takes_the_others(tmp_path, monkeypatch):
    """A large document is a list by itself."""
    monkeypatch.setattr(tokenise, "_TABLE_DOCUMENTS", 1)
    path = tmp_path / "picky.jinja"
    refuses = "{% if 'hostile' in messages | string %}{{ raise_exception('no') }}{% endif %}"
    path.write_text(refuses + CHATML)
    model = {"model": MODEL | {"chat_template": str(path)}}
    rows = [
        {"prompt": [{"role": "user", "content": asked}],
         "chosen": [{"role": "assistant", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}]}
        for asked in ("hostile", "one", "two", "three")
    ]  # fmt: skip
    run = packed(tmp_path, rows, **model)
    assert len({one["id"] for one in documents_of(run)}) == 3
    with pytest.raises(ConfigError, match="of the first 2 documents none is an example"):
        packed_by(
            write_lines(tmp_path / "two.jsonl", [rows[0]] * 2), tmp_path / "two", **HOW | {"objective": "dpo"} | model
        )


@pytest.mark.parametrize(("roles", "start"), [
    ("", None), ("u", None), ("ua", 1), ("uau", 1), ("uauta", 1), ("uatata", 1), ("uauata", 3), ("ta", 1), ("tta", 2),
    ("uataua", 5), ("uauatata", 3),
])  # fmt: skip
def test_the_last_answer_begins_with_its_calls_of_tools(roles, start):
    names = {"u": "user", "a": "assistant", "t": "tool"}
    assert documents._start_of_answer(Chat([{"role": names[one], "content": ""} for one in roles])) == start


def test_the_beginning_of_the_last_answer_is_found_in_one_walk():
    class Counted(list):
        read = 0

        def __getitem__(self, at):
            Counted.read += 1
            return super().__getitem__(at)

        def __iter__(self):
            Counted.read += len(self)
            return super().__iter__()

    turns = Counted([{"role": "user"}, *[{"role": "assistant"}, {"role": "tool"}] * 500, {"role": "assistant"}])
    assert documents._start_of_answer(Chat(turns)) == 1 and Counted.read < 4 * len(turns)
