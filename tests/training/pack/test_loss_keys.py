"""What authors exclude from the loss: weights of messages, columns that decide it, and what is not read."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.progress import ProgressLines
from raymill.training.config_parts import Columns
from raymill.training.job import report_overflow
from raymill.training.pack import job
from raymill.training.pack.documents import Chat, Document, Pair
from raymill.training.pack.loss_keys import BadWeight, factor_of, refuse_deciding_keys, weights_of_turn, without_ignored
from raymill.training.pack.packed_run import PackedRun
from raymill.training.pack.summary import summary
from raymill.training.pack.template import CHATML
from raymill.training.tokenizer.preview import preview, print_previews
from tests.support.inline import InlineEngine
from tests.support.pack_runs import packed_by, settings_of, write_lines
from tests.support.packed_examples import config as plain_config
from tests.support.tiny_tokenizers import encoder_of, saved, tiny

OF_CHATS = tiny(CHATML)
QUESTION = {"role": "user", "content": "the fox?"}
MODEL = {"config": {"model_type": "llama", "vocab_size": 400}}


def turn(content: str, **keys) -> dict:
    return {"role": "assistant", "content": content} | keys


def encoded(*messages: dict):
    return encoder_of(OF_CHATS).encode([Document("d", Chat([*messages]), 1, 0, "", None)])


def trained_text(*messages: dict) -> tuple[str, list[float]]:
    """(the trained text of a conversation, the weight of each of its trained tokens)."""
    (example,) = encoded(*messages).examples
    weights = np.ones(len(example.ids)) if example.weights is None else example.weights
    text = OF_CHATS.decode(example.ids[example.trained].tolist(), clean_up_tokenization_spaces=False)
    return text, weights[example.trained].tolist()


@pytest.mark.parametrize("keys", [{"weight": 0}, {"weight": 0.0}, {"loss_weight": 0}, {"train": False},
                                  {"training": False}, {"weight": 1, "train": False}])  # fmt: skip
def test_a_turn_that_its_author_excluded_is_not_trained_on(keys):
    text, weights = trained_text(QUESTION, turn("the dog", **keys), QUESTION, turn("the brown fox"))
    assert text == "the brown fox<|im_end|>" and set(weights) == {1}


@pytest.mark.parametrize("keys", [{}, {"weight": 1}, {"loss_weight": 1.0}, {"train": True}])
def test_turns_of_weight_1_are_trained_on_and_rows_have_no_weights(keys):
    (example,) = encoded(QUESTION, turn("the dog", **keys)).examples
    assert example.weights is None and example.trained.any()


def test_a_fraction_is_the_weight_of_every_token_of_its_turn_and_of_the_token_that_ends_it():
    text, weights = trained_text(QUESTION, turn("the dog", weight=0.25), QUESTION, turn("the fox"))
    assert text == "the dog<|im_end|>the fox<|im_end|>"
    quarter = weights.count(0.25)
    assert weights == [0.25] * quarter + [1.0] * (len(weights) - quarter) and quarter == weights.count(1.0)


def test_a_conversation_whose_turns_are_all_excluded_is_counted_with_the_reason():
    found = encoded(QUESTION, turn("the dog", weight=0))
    assert not found.examples and found.misfits[0].reason == "weights_are_zero"
    assert found.notes["turns_excluded"] == 1


def test_a_weight_of_another_role_is_counted_and_changes_nothing():
    found = encoded(QUESTION | {"train": True}, turn("the dog"))
    assert found.notes["loss_of_other_roles"] == 1 and found.examples[0].weights is None
    assert encoded(QUESTION | {"train": False}, turn("the dog")).notes["loss_of_other_roles"] == 0


# The example of axolotl's guide: both offsets are included.
DETAIL = [
    {"begin_offset": 0, "end_offset": 8, "train": False},
    {"begin_offset": 9, "end_offset": 18, "train": True},
    {"begin_offset": 19, "end_offset": 30, "train": False},
]
SAID = "I'm doing very well, thank you!"


def test_train_detail_names_the_characters_that_are_trained_on():
    text = f"<|im_start|>assistant\n{SAID}<|im_end|>\n"
    start, end = 22, len(text) - 1
    found = weights_of_turn(turn(SAID, train_detail=DETAIL), text, start, end)
    assert [(text[low:high], weight) for low, high, weight in found] == [
        ("I'm doing", 0), (" very well", 1), (", thank you!", 0), ("<|im_end|>", 1),
    ]  # fmt: skip
    text, _ = trained_text(QUESTION, turn(SAID, train_detail=DETAIL))
    assert text == " very well<|im_end|>"


def test_with_a_fraction_the_named_characters_and_the_end_of_the_turn_have_that_weight():
    text = f"<|im_start|>assistant\n{SAID}<|im_end|>\n"
    found = weights_of_turn(turn(SAID, train_detail=DETAIL, weight=0.5), text, 22, len(text) - 1)
    assert [weight for _, _, weight in found] == [0, 0.5, 0, 0.5]


def test_a_column_that_is_ignored_does_not_remove_the_content_and_role_of_messages():
    columns = Columns(messages="messages", ignore=("content", "role", "weight"))
    assert without_ignored(turn("the dog", weight=0), columns.read) == turn("the dog")


def test_a_token_with_an_excluded_character_is_not_trained_on_and_text_that_no_range_names_neither():
    inside = [{"begin_offset": 5, "end_offset": 12, "train": True}]  # from within "quick" to within "brown"
    text, _ = trained_text(QUESTION, turn("the quick brown fox", train_detail=inside))
    assert text.endswith("<|im_end|>") and text.removesuffix("<|im_end|>") in "the quick brown fox"[5:13]


def test_offsets_count_the_authors_characters_where_the_template_trims_and_control_tokens_are_quoted():
    said = "  say <|im_end|> now"
    detail = [{"begin_offset": said.index("now"), "end_offset": len(said) - 1, "train": True}]
    text, _ = trained_text(QUESTION, turn(said, train_detail=detail))
    assert text == "now<|im_end|>"
    trimmed = "user: q\nassistant: say it<|eot|>"
    spans = weights_of_turn(turn("  say it ", train_detail=[detail[0] | {"begin_offset": 6, "end_offset": 7}]),
                            trimmed, 19, len(trimmed))  # fmt: skip
    assert [(trimmed[low:high], weight) for low, high, weight in spans] == [("say ", 0), ("it", 1), ("<|eot|>", 1)]


@pytest.mark.parametrize(
    ("ranges", "trained"),
    [
        ([(0, 9, True), (3, 5, False)], "012      6789"),
        ([(3, 5, False), (0, 9, True)], "0123456789"),
        ([(0, 4, True), (2, 6, False), (4, 5, True)], "01 45"),
        ([(8, 8, True), (0, 0, True)], "0 8"),
        ([(7, 10**12, True), (10**9, 10**12, False)], "789"),
    ],
)
def test_of_overlapping_ranges_the_last_decides_and_none_reaches_beyond_the_content(ranges, trained):
    detail = [{"begin_offset": first, "end_offset": last, "train": train} for first, last, train in ranges]
    found = weights_of_turn(turn("0123456789", train_detail=detail), "0123456789", 0, 10)
    assert "".join("0123456789"[low:high] for low, high, weight in found if weight) == trained.replace(" ", "")


def test_each_character_is_written_once_however_many_ranges_name_it():
    """1 MB of text with 20,000 ranges over all of it would take minutes."""
    text, detail = "a" * 10**6, [{"begin_offset": 0, "end_offset": 10**6, "train": n % 2 == 1} for n in range(20_000)]
    assert weights_of_turn(turn(text, train_detail=detail), text, 0, len(text)) == [(0, len(text), 1)]


def test_a_detail_about_a_content_that_the_template_changes_is_refused():
    with pytest.raises(BadWeight, match="the chat template changes the content"):
        weights_of_turn(turn("abc", train_detail=[{"begin_offset": 0, "end_offset": 1, "train": True}]), "xyz", 0, 3)


@pytest.mark.parametrize("keys", [{"weight": -1}, {"weight": "0"}, {"weight": float("nan")}, {"train": "no"},
                                  {"train_detail": [{"begin_offset": 3}]}, {"train_detail": "x"}])  # fmt: skip
def test_an_unusable_weight_leaves_the_row_out_with_the_reason(tmp_path, monkeypatch, keys):
    monkeypatch.setattr(job, "Engine", InlineEngine)
    rows = [{"messages": [QUESTION, turn("the dog", **keys)]}, *chats(30)]
    assert tokenised(tmp_path, rows).tokenised("corpus-0")["left_out/bad_weight"] == 1


def test_weights_multiply():
    assert factor_of({"weight": 0.5, "loss_weight": 0.5, "train": True}) == 0.25


# --- from a corpus to rows


def chats(count: int, **keys) -> list[dict]:
    return [{"id": f"d{n}", "messages": [QUESTION, turn(f"the fox {n}")]} | keys for n in range(count)]


def run_settings(tmp_path, rows: list[dict] | str, **more) -> dict:
    corpus = rows if isinstance(rows, str) else write_lines(tmp_path / "c.jsonl", rows)
    model = MODEL | {"tokenizer": saved(tmp_path / "tokenizer", tiny(CHATML))}
    return settings_of(corpus, tmp_path / "run", **{"model": model} | more)


def tokenised(tmp_path, rows: list[dict] | str, **more) -> PackedRun:
    settings = run_settings(tmp_path, rows, **more)
    return packed_by(settings.pop("corpus"), Path(settings.pop("output")), **settings)


def shown(tmp_path, rows, **more) -> str:
    """The preview as text."""
    stream = io.StringIO()
    config = plain_config(**run_settings(tmp_path, rows, **more))
    print_previews(preview(config, 1), Console(file=stream, width=400, highlight=False, color_system=None))
    return stream.getvalue()


@pytest.fixture
def inline(monkeypatch):
    monkeypatch.setattr(job, "Engine", InlineEngine)


def test_packed_rows_have_the_weights_and_the_counters_say_how_many(tmp_path, inline):
    rows = [{"messages": [QUESTION, turn("no", weight=0), QUESTION, turn("half", weight=0.5)]}, *chats(30)]
    packed = tokenised(tmp_path, rows, split={"train": 1, "validation": 0, "test": 0})
    table = packed.split("train")[0].table().to_pylist()
    weighted = [row for row in table if row["weights"] is not None]
    assert len(weighted) == 1 and len(table) > 1
    (row,) = weighted
    found = {weight for weight, flag in zip(row["weights"], row["labels"], strict=True) if flag}
    assert found == {0.5, 1.0} or found == {0.5}
    config = plain_config(**run_settings(tmp_path, rows, split={"train": 1, "validation": 0, "test": 0}))
    told = summary(config, packed)
    assert "1 assistant turns are not trained on, because their weight is 0" in told
    assert "1 assistant turns are trained on in part, or with another weight than 1" in told


@pytest.mark.parametrize("key", ["weight", "train"])
def test_ignore_trains_on_all_messages_alike(tmp_path, inline, key):
    rows = [{"messages": [QUESTION, turn("no", **{key: 0 if key == "weight" else False})]}] * 30
    with pytest.raises(DataError, match="30 weights_are_zero"):
        tokenised(tmp_path, rows)
    packed = tokenised(tmp_path, rows, ignore=[key], split={"train": 1, "validation": 0, "test": 0}, replace=True)
    assert packed.tokenised("corpus-0")["examples"] == 30


PAIR, TALK, TEXT = Columns(prompt="p", completion="c"), Columns(messages="m"), Columns(text="text")


@pytest.mark.parametrize(("row", "columns", "advice"), [
    ({"label": False}, TALK, "desirable and undesirable"),
    ({"label": True}, PAIR, "desirable and undesirable"),
    ({"label": "false"}, PAIR, "desirable and undesirable"),
    ({"kto_tag": True}, TALK, "desirable and undesirable"),
    ({"chosen": "a", "rejected": "b"}, TALK, "preference data"),
    ({"rejected": ["b"]}, PAIR, "preference data"),
    ({"rejected_response": "b"}, TALK, "preference data"),
    ({"label": 0}, PAIR, "desirable and undesirable"),
    ({"label": 1.0}, TALK, "desirable and undesirable"),
    ({"loss": False}, TALK, "decides the loss of a row"),
    ({"weight": 0}, PAIR, "decides the loss of a row"),
    ({"loss_weight": 0.5}, TALK, "decides the loss of a row"),
    ({"train": False}, TALK, "decides the loss of a row"),
    ({"history": [["a", "b"]]}, PAIR, "columns.history"),
])  # fmt: skip
def test_a_column_that_decides_what_is_trained_on_is_an_error_unless_it_is_ignored(row, columns, advice):
    with pytest.raises(ConfigError, match=rf"x byte 0: column \w+ \(.*{advice}.*ignore: \["):
        refuse_deciding_keys(row, columns.read, "x byte 0")
    refuse_deciding_keys(row, columns.model_copy(update={"ignore": tuple(row)}).read, "x byte 0")
    refuse_deciding_keys(row, TEXT.read, "x byte 0")  # every token of plain text is trained on


@pytest.mark.parametrize("row", [{"label": "sports"}, {"label": 3}, {"label": None}, {"weight": 1}, {"weight": "2 kg"},
                                 {"train": True}, {"history": []}, {"rejected": None}, {"mask": None}])  # fmt: skip
def test_columns_of_such_names_that_exclude_nothing_are_no_error(row):
    refuse_deciding_keys(row, TALK.read, "x")


def test_who_names_the_chosen_answers_trains_on_them():
    refuse_deciding_keys({"c": 1, "chosen": "a", "rejected": "b"}, Columns(prompt="p", completion="chosen").read, "x")


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_undesirable_answers_are_refused_by_packing_and_the_preview_with_their_place(tmp_path, inline, kind):
    rows = [*chats(30), *[row | {"label": row["id"] != "d3"} for row in chats(5)]]
    corpus = str(tmp_path / f"c.{kind}")
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist([{"label": None} | row for row in rows]), corpus)
    else:
        write_lines(Path(corpus), rows)
    for use in (tokenised, shown):
        with pytest.raises(ConfigError, match=rf"c\.{kind} .*: column label \(True\) marks desirable and undes.*KTO"):
            use(tmp_path, corpus)
    assert tokenised(tmp_path, corpus, ignore=["label"]).tokenised("corpus-0")["documents"] == 35


@pytest.mark.parametrize("key", [{"masked": True}, {"loss": False}, {"loss_scale": 0.0}, {"training_detail": [{}]}])
def test_a_key_of_messages_that_decides_the_loss_otherwise_is_an_error_unless_it_is_ignored(tmp_path, inline, key):
    rows = [{"messages": [QUESTION, turn("the dog", **key)]}] * 30
    (name,) = key
    where = rf"\.jsonl byte 0: a message has the key {name} .*Rename it to `weight`.*ignore: \[{name}\]"
    with pytest.raises(ConfigError, match=where):
        tokenised(tmp_path, rows)
    assert tokenised(tmp_path, rows, ignore=[name]).tokenised("corpus-0")["documents"] == 30


# --- history and system prompts


def test_earlier_turns_are_written_before_the_prompt_and_their_answers_are_trained_on():
    history = (("the quick?", "brown"), ("the lazy?", "dog"))
    found = encoder_of(OF_CHATS).encode([Document("d", Pair("the fox?", "jumps", "hello", history), 1, 0, "", None)])
    (example,) = found.examples
    text = OF_CHATS.decode(example.ids.tolist(), clean_up_tokenization_spaces=False)
    assert [part.partition("\n")[0] for part in text.split("<|im_start|>")[1:]] == [
        "system",
        *["user", "assistant"] * 3,
    ]
    trained = OF_CHATS.decode(example.ids[example.trained].tolist(), clean_up_tokenization_spaces=False)
    assert trained == "brown<|im_end|>dog<|im_end|>jumps<|im_end|>"


def test_the_column_history_of_alpaca_is_recognised_and_a_bad_one_is_counted(tmp_path, inline):
    rows = [{"instruction": f"q {n}", "input": "", "output": "a", "history": [["b", "c"]]} for n in range(30)]
    told = shown(tmp_path, rows)
    assert "⟦c<|im_end|>⟧" in told and "⟦a<|im_end|>⟧" in told and "not used" not in told
    assert tokenised(tmp_path, [*rows, rows[0] | {"history": ["b"]}]).tokenised("corpus-0")["left_out/bad_history"] == 1


def test_earlier_turns_need_a_chat_template(tmp_path, inline):
    model = MODEL | {"tokenizer": saved(tmp_path / "t", tiny())}
    rows = [{"prompt": "q", "completion": "a", "history": [["b", "c"]]}] * 9
    with pytest.raises(ConfigError, match="earlier turns are written by a chat template"):
        packed_by(write_lines(tmp_path / "c.jsonl", rows), tmp_path / "run", model=model)


def test_a_system_column_begins_the_conversations_that_have_no_system_prompt(tmp_path, inline):
    conversation = [{"from": "human", "value": "the fox?"}, {"from": "gpt", "value": "jumps"}]
    rows = [{"conversations": conversation, "system": "hello"}] * 9
    assert "<|im_start|>system↵\nhello<|im_end|>" in shown(tmp_path, rows)
    own = [{"from": "system", "value": "world"}, *conversation]
    assert "hello" not in shown(tmp_path, [{"conversations": own, "system": "hello"}] * 9)


# --- what is not read


def test_columns_and_keys_that_are_not_read_are_listed_with_their_rows_by_every_command(tmp_path, inline):
    rows = chats(30, topic="foxes", empty="")
    rows[0]["messages"] = [QUESTION | {"mood": "calm", "name": "Ann"}, turn("the dog", mood=None)]
    rows[1]["score"] = 0
    note = "not used, with the number of rows that have them: topic (30), "
    assert note in shown(tmp_path, rows)
    packed = tokenised(tmp_path, rows)
    config, lines = plain_config(**run_settings(tmp_path, rows)), io.StringIO()
    report_overflow(packed, config.sequence_length, ProgressLines(lines))
    for told in (summary(config, packed), lines.getvalue(), packed.passed_over["corpus-0"]):
        assert note in told and "messages[].mood (1)" in told and "score (1)" in told and "empty" not in told
    assert "topic" not in tokenised(tmp_path, rows, ignore=["topic"], replace=True).passed_over["corpus-0"]


def test_a_key_of_messages_that_the_template_reads_is_not_listed(tmp_path, inline):
    rows = chats(9)
    rows[0]["messages"][0] = QUESTION | {"name": "Ann", "end": True}
    template = CHATML.replace("+ message.role +", "+ message.role + (message.name or '') +")
    model = MODEL | {"tokenizer": saved(tmp_path / "named", tiny(template))}
    assert "endif" in template
    assert "that have them: messages[].end (1)" in shown(tmp_path, rows, model=model)


def test_of_parquet_the_rows_with_a_value_are_counted(tmp_path, inline):
    rows = [row | {"topic": "foxes" if n < 4 else None, "vector": [1.0]} for n, row in enumerate(chats(30))]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet", row_group_size=7)
    note = "not used, with the number of rows that have them: vector (30), topic (4)"
    assert note in shown(tmp_path, str(tmp_path / "c.parquet"))
    assert note in tokenised(tmp_path, str(tmp_path / "c.parquet")).passed_over["corpus-0"]


# --- a column of splits


def split_rows(names: list[str], count: int = 40) -> list[dict]:
    return [
        {"id": f"d{n}", "prompt": f"q {n}", "completion": "a", "split": names[n % len(names)]} for n in range(count)
    ]


def documents_of(packed: PackedRun) -> dict[str, int]:
    counters = packed.packed("corpus-0")
    return {split: int(counters[f"documents/{split}"]) for split in ("train", "validation", "test")}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("names", [["train", "test", "train", "validation"], ["Train", "testing", "TRAIN", "eval"]])
def test_a_column_of_splits_decides_them_and_is_named(tmp_path, inline, kind, names):
    corpus = str(tmp_path / f"c.{kind}")
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(split_rows(names)), corpus)
    else:
        write_lines(Path(corpus), split_rows(names))
    packed = tokenised(tmp_path, corpus)
    assert documents_of(packed) == {"train": 20, "validation": 10, "test": 10}
    assert packed.passed_over["corpus-0"].startswith("its column `split` decides the splits")


@pytest.mark.parametrize("more", [{"ignore": ["split"]}, {"split": {"train": 0.5, "validation": 0.25, "test": 0.25}}])
def test_shares_that_the_config_sets_win_and_then_the_column_is_listed_unless_ignored(tmp_path, inline, more):
    packed = tokenised(tmp_path, split_rows(["test", "test", "train"]), **more)
    assert documents_of(packed)["test"] < 20
    listed = packed.passed_over.get("corpus-0", "")
    assert ("split (40)" in listed) == ("split" in more)


def test_a_column_split_with_other_values_is_listed(tmp_path, inline):
    assert "split (40)" in tokenised(tmp_path, split_rows(["red", "train"])).passed_over["corpus-0"]


@pytest.mark.parametrize(("row", "advice"), [
    ({"input": {"messages": []}, "preferred_output": [], "non_preferred_output": []},
     r"columns: \{prompt: input.messages, chosen: preferred_output"),
    ({"input_ids": [1], "labels": [1]}, "Tokens are not read"),
])  # fmt: skip
def test_columns_of_other_names_are_an_error_that_says_what_to_set(tmp_path, inline, row, advice):
    with pytest.raises(ConfigError, match=advice):
        tokenised(tmp_path, [row] * 9)


def test_pairs_of_answers_without_a_completion_are_named(tmp_path, inline):
    rows = [{"prompt": "q", "chosen": "a", "rejected": json.dumps("b")}] * 9
    with pytest.raises(ConfigError, match=r"Two answers are .*chosen: chosen, rejected: rejected"):
        tokenised(tmp_path, rows)


@pytest.mark.parametrize("keys", [
    {"weight": 10**400}, {"loss_weight": -(10**400)}, {"weight": 1e300, "loss_weight": 1e300}, {"weight": math.nan},
])  # fmt: skip
def test_a_weight_beyond_all_numbers_is_unusable(keys):
    with pytest.raises(BadWeight, match="wanted 0, 1 or another number"):
        factor_of(keys)
    assert factor_of({"weight": True, "loss_weight": 0.5}) == 0.5
