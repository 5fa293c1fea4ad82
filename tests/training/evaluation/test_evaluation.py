"""Held-out loss, prompts from packed rows, and greedy generation, against the same done plainly."""

import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch

from raymill.cluster import guard
from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import DataError
from raymill.cluster.store.store import Store
from raymill.training.config_parts import Generate
from raymill.training.data.held_out import HeldOutRows, held_out_split
from raymill.training.data.packed import PACKED, PackedRows, RowBounds
from raymill.training.evaluation import generate
from raymill.training.evaluation import job as evaluation_job
from raymill.training.evaluation.generate import (
    Prompt,
    complete_prompts,
    evenly_spaced,
    held_out_prompts,
    last_trained_span,
    stop_ids,
)
from raymill.training.evaluation.job import (
    batches,
    evaluate,
    generate_and_score,
    initial_objective,
    measure,
    prompts_of,
)
from raymill.training.records.finished import EVALUATION
from tests.support.changed_work import change
from tests.support.export_runs import Run, byte_tokenizer, make_run
from tests.support.fit_jobs import settings

pytestmark = pytest.mark.filterwarnings("ignore")

CPU = torch.device("cpu")
GENERATE = {"prompts": 4, "max_new_tokens": 8, "prompt_tokens": 6}


def asks(answer: dict) -> bool:
    return "What is" in answer["prompt"]


@pytest.fixture(scope="module")
def chat(tmp_path_factory) -> Run:
    return make_run(
        tmp_path_factory.mktemp("chat"), steps=20, generate=GENERATE | {"answer": "number", "custom": [asks]}
    )


def plain_loss(run: Run, objective) -> tuple[float, float]:
    """Row by row, document by document, with the model's own forward: (loss, accuracy) over label tokens."""
    losses, right, tokens = 0.0, 0, 0
    for table in run.packed.corpora["test"]["test"].tables():
        for row in table.to_pylist():
            at = 0
            for size in row["lengths"]:
                ids = torch.tensor([row["ids"][at : at + size]])
                labels = torch.tensor(row["labels"][at : at + size])[1:]
                at += size
                with torch.inference_mode():
                    scores = objective.model(input_ids=ids, use_cache=False).logits[0, :-1].log_softmax(-1)
                losses -= scores[labels, ids[0, 1:][labels]].double().sum().item()
                right += (scores[labels].argmax(-1) == ids[0, 1:][labels]).sum().item()
                tokens += int(labels.sum())
    return losses / tokens, right / tokens


def test_before_and_after_are_the_token_weighted_losses_of_base_and_trained_model(chat):
    evaluation = evaluate(chat.job, chat.outcome, chat.packed)
    for when, objective in (("before", initial_objective(chat.job)), ("after", chat.trained)):
        loss, accuracy = plain_loss(chat, objective)
        found = evaluation[when]["test"]
        assert found["loss"] == pytest.approx(loss, rel=1e-5)
        assert found["perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)
        assert found["accuracy"] == pytest.approx(accuracy)
        assert found["label_tokens"] == chat.packed.packed("test")["label_tokens/test"]
    assert evaluation["after"]["test"]["loss"] < evaluation["before"]["test"]["loss"]


def test_an_evaluation_is_written_once_and_found_again(chat, monkeypatch):
    first = evaluate(chat.job, chat.outcome, chat.packed)
    monkeypatch.setattr("raymill.training.evaluation.job.initial_objective", lambda *_: pytest.fail("computed again"))
    assert evaluate(chat.job, chat.outcome, chat.packed) == first
    on_disk = json.loads((chat.export.parent / EVALUATION).read_text())
    assert {name: on_disk[name] for name in first} == first


def test_every_score_of_a_number_answer_is_there(chat):
    evaluation = evaluate(chat.job, chat.outcome, chat.packed)
    assert {"exact_match", "f1", "bleu", "rouge1", "rouge2", "rougeL", "number_match"} <= evaluation[
        "generation"
    ].keys()
    assert evaluation["generation"]["asks"] == 1
    assert len(evaluation["answers"]) == GENERATE["prompts"]
    for answer in evaluation["answers"]:
        number = int(answer["document"].removeprefix("doc-"))
        assert answer["reference"] == f"#### {number + 1}"
        assert answer["prompt"].endswith(f"What is {number} plus 1?<|im_end|>\n<|im_start|>assistant\n")
        assert "<|" not in answer["generated"]


@pytest.mark.parametrize("rows", [1, 3, None])
def test_the_loss_does_not_depend_on_how_rows_are_batched(chat, rows):
    tables = list(chat.packed.corpora["test"]["train"].tables())
    chat.trained.train()
    whole = measure(chat.trained, tables, 2, 0, CPU)
    assert not chat.trained.training, "without dropout"
    assert measure(chat.trained, tables, rows, 0, CPU)["loss"] == pytest.approx(whole["loss"], rel=1e-5)


def test_a_split_without_targets_has_no_loss(chat):
    row = {"ids": [1, 2], "labels": [False, False], "lengths": [2], "documents": ["x"], "label": None}
    assert measure(chat.trained, [pa.Table.from_pylist([row], PACKED)], None, 0, CPU) is None
    assert list(batches([PACKED.empty_table()], None, 0)) == []


@pytest.mark.parametrize("method", ["lora", "prefix", "prompt"])
def test_generation_is_greedy_and_batches_say_what_single_prompts_say(tmp_path, method):
    """Against the loop without cache, padding or library: the most probable next token, again and again."""
    run = make_run(tmp_path, method, steps=1, prefix={"tokens": 3}, prompt={"tokens": 3})
    torch.manual_seed(0)
    for name, parameter in run.trained.named_parameters():
        if "norm" not in name:
            parameter.data.normal_(0, 0.5)  # so that what stands where decides what is said
    prompts = [
        run.tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in ("What is 1 plus 1?", "What", "1 plus", "What is 9 plus 1?")
    ]
    wanted = [greedily(run.trained, ids, 7) for ids in prompts]
    found = complete_prompts(run.trained.model, prompts, 7, [], run.tokenizer.pad_token_id, padded=method == "lora")
    assert found == wanted


def greedily(objective, ids: list[int], count: int) -> list[int]:
    said = list(ids)
    with torch.inference_mode():
        for _ in range(count):
            hidden = objective.hidden(torch.tensor([said]), torch.arange(len(said))[None], torch.tensor([0, len(said)]))
            said.append(int(objective.logits(hidden[0, -1:]).argmax()))
    return said[len(ids) :]


def test_generation_stops_at_any_stop_and_leaves_it_out(chat):
    ids = chat.tokenizer("What is 1 plus 1?", add_special_tokens=False)["input_ids"]
    free = complete_prompts(chat.trained.model, [ids], 8, [], 0, padded=True)[0]
    assert len(free) == 8
    stop = free[3]
    stopped = complete_prompts(chat.trained.model, [ids, ids[:5]], 8, [263, stop], 0, padded=True)[0]
    assert stopped == free[: free.index(stop)]


def test_a_models_habits_of_sampling_are_left_aside_and_given_back(chat):
    ids = chat.tokenizer("What is 1 plus 1?", add_special_tokens=False)["input_ids"]
    plain = complete_prompts(chat.trained.model, [ids], 8, [], 0, padded=True)
    holders = [chat.trained.model, chat.trained.model.get_base_model()]
    own = [holder.generation_config for holder in holders]
    habits = type(own[0])(do_sample=True, temperature=3.0, repetition_penalty=5.0, max_length=3)
    for holder in holders:
        holder.generation_config = habits
    try:
        assert complete_prompts(chat.trained.model, [ids], 8, [], 0, padded=True) == plain
        assert all(holder.generation_config is habits for holder in holders)
    finally:
        for holder, config in zip(holders, own, strict=True):
            holder.generation_config = config


def test_a_prompt_longer_than_the_model_can_take_keeps_its_end(tmp_path):
    run = make_run(
        tmp_path, form="text", steps=1, generate={"prompts": 2, "max_new_tokens": 200, "prompt_tokens": 6},
        model={"config": {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 4, "vocab_size": 264,
                          "n_positions": 80}, "tokenizer": "train"},
    )  # fmt: skip
    _, artifacts = held_out_split(run.packed)
    config = run.job.config
    forms = dict.fromkeys(config.corpus_names, "text")
    _, answers = generate_and_score(run.trained, config, artifacts, forms, run.tokenizer, RowBounds())
    assert len(answers) == 2
    prompts = prompts_of(artifacts, forms, config.generate, 4, config.sequence_length, RowBounds())
    assert [(len(prompt.ids), len(prompt.reference)) for prompt in prompts] == [(6, 4)] * 2


@pytest.mark.parametrize(
    ("method", "most", "prompt", "new_tokens"),
    [("lora", 8, (7, 8, 9, 10), 8), ("prefix", 6, (8, 9, 10), 6), ("prompt", 200, (10,), 8), ("full", 2, None, 2)],
)
def test_prompt_and_answer_fit_the_positions_that_virtual_tokens_leave(monkeypatch, method, most, prompt, new_tokens):
    """A model of 12 positions, of which 3 virtual tokens take their part; else the end of the prompt is kept."""
    ids, asked = tuple(range(1, 11)), []

    def decode(ids, skip_special_tokens: bool = False) -> str:
        return f" {[*ids]} {'plain' if skip_special_tokens else 'whole'}"

    def fixed_answers(model, prompts, *how, padded):
        asked.append((prompts, how, padded))
        return [[4]]

    monkeypatch.setattr(evaluation_job, "prompts_of", lambda *_: [Prompt("d", ids, (5, 6))])
    monkeypatch.setattr(evaluation_job, "complete_prompts", fixed_answers)
    monkeypatch.setattr(evaluation_job, "stop_ids", lambda tokenizer: [77])
    monkeypatch.setattr(evaluation_job, "pad_id", lambda tokenizer: 88)
    described = SimpleNamespace(get_text_config=lambda: SimpleNamespace(max_position_embeddings=12))
    objective = SimpleNamespace(
        model=SimpleNamespace(config=described), parameters=lambda: iter([torch.nn.Parameter(torch.zeros(1))])
    )
    more = {"packing": {"mode": "none"}, method: {"tokens": 3}} if method in ("prefix", "prompt") else {}
    config = settings("nowhere", method=method, generate={"max_new_tokens": most}, **more)
    _, (answer,) = generate_and_score(objective, config, {}, {}, SimpleNamespace(decode=decode), RowBounds())
    assert asked == [([prompt or ids], (new_tokens, [77], 88), method in ("lora", "full"))]
    assert answer == {
        "document": "d", "prompt": f" {[*ids]} whole", "reference": "[5, 6] plain", "generated": "[4] plain",
    }  # fmt: skip


def test_answers_end_where_the_template_ends_a_turn():
    tokenizer = byte_tokenizer()
    end, turn = (tokenizer.convert_tokens_to_ids(token) for token in ("<|endoftext|>", "<|im_end|>"))
    assert stop_ids(tokenizer) == [end, turn]
    tokenizer.chat_template = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
    assert stop_ids(tokenizer) == [end]
    tokenizer.chat_template = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    assert stop_ids(tokenizer) == [end]  # an ordinary line end ends no answer
    tokenizer.chat_template = None
    assert stop_ids(tokenizer) == [end]


def test_a_template_is_rendered_for_the_ends_of_turns_once_for_equal_tokenizers(monkeypatch):
    rendered, found = [], generate._ends_of_turns
    monkeypatch.setattr(guard, "_found_once", {})
    monkeypatch.setattr(generate, "_ends_of_turns", lambda tokenizer: rendered.append(tokenizer) or found(tokenizer))

    def renderings(**changes: str) -> int:
        rendered.clear()
        tokenizer = byte_tokenizer()
        for name, value in changes.items():
            setattr(tokenizer, name, value)
        stop_ids(tokenizer)
        return len(rendered)

    assert [renderings(), renderings()] == [1, 0]
    assert renderings(eos_token="<|im_end|>") == renderings(chat_template="{{ messages[0].content }}") == 1


# --- prompts


class Rows:
    """Packed rows in memory."""

    def __init__(self, rows: list[dict]) -> None:
        self.table = pa.Table.from_pylist([{"label": None} | row for row in rows], PACKED)
        self.rows = len(rows)

    def read(self, indices):
        return [self.table.slice(index, 1) for index in indices]

    def prompts(self, form="chat", count=10, prompt_tokens=2, reference_tokens=3, full=10):
        return held_out_prompts(self, [self.table], form, count, prompt_tokens, reference_tokens, full)


def row(*documents: tuple[str, list[int], str]) -> dict:
    """Of (id, tokens, labels as a text of - and x)."""
    return {
        "ids": [token for _, ids, _ in documents for token in ids],
        "labels": [mark == "x" for _, _, marks in documents for mark in marks],
        "lengths": [len(ids) for _, ids, _ in documents],
        "documents": [name for name, _, _ in documents],
    }


def test_a_chats_prompt_is_all_before_its_last_answer():
    rows = Rows([row(("a", [1, 2, 3, 4, 5, 6], "--x--x"), ("b", [7, 8, 9], "-xx"))])
    assert [(p.document, p.ids, p.reference) for p in rows.prompts()] == [
        ("a", (1, 2, 3, 4, 5), (6,)),
        ("b", (7,), (8, 9)),
    ]


def test_what_follows_the_last_answer_is_no_part_of_it():
    """A template may end with a line end after the end of turn, which is not labelled."""
    (found,) = Rows([row(("a", [1, 2, 3, 4], "-xx-"))]).prompts()
    assert (found.ids, found.reference) == ((1,), (2, 3))


def test_cut_documents_and_those_without_an_answer_give_no_prompt():
    rows = Rows([
        row(("cut", [1, 2, 3], "-xx")),
        row(("full", list(range(10)), "-xxxxxxxxx")),
        row(("cut", [3, 4], "-x"), ("none", [5, 6], "--"), ("good", [7, 8], "-x")),
    ])  # fmt: skip
    assert [prompt.document for prompt in rows.prompts()] == ["good"]


def test_a_document_whose_prompt_or_answer_is_empty_gives_none():
    rows = Rows([row(("no prompt", [1, 2], "xx"), ("both", [3, 4], "-x"))])
    assert [prompt.document for prompt in rows.prompts()] == ["both"]
    assert [prompt.document for prompt in rows.prompts("text", prompt_tokens=2)] == []
    assert [prompt.document for prompt in rows.prompts("text", prompt_tokens=0)] == []


def test_a_texts_prompt_is_its_first_tokens_and_its_reference_the_next():
    rows = Rows([row(("a", [1, 2, 3, 4, 5, 6, 7], "-xxxxxx"), ("short", [8, 9], "-x")), row(("a", [7, 8, 9], "-xx"))])
    assert [(p.ids, p.reference) for p in rows.prompts("text")] == [((1, 2), (3, 4, 5)), ((7, 8), (9,))]


def test_prompts_come_from_all_over_the_split_and_are_the_same_every_time():
    rows = Rows([row((f"d{number}", [1, 2], "-x")) for number in range(100)])
    found = [prompt.document for prompt in rows.prompts(count=3)]
    assert found == [prompt.document for prompt in rows.prompts(count=3)]
    assert found[0] == "d0" and found[-1] == "d99" and len(found) == 3
    assert Rows([]).prompts() == [] and rows.prompts(count=0) == []


def test_prompts_and_rows_that_pack_does_not_write_are_named_and_not_used(chat, tmp_path):
    """The test split of a packed folder of others: a length took any memory, a long row any time, after training."""
    shutil.copytree(chat.packed.corpora["test"]["test"].uri, tmp_path / "test")
    change(tmp_path / "test", lambda table: pa.Table.from_pylist(
        [row | {"lengths": [2**31 - 1, *row["lengths"][1:]]} for row in table.to_pylist()], table.schema
    ))  # fmt: skip
    forged, length = Artifact.load(Store(), str(tmp_path / "test")), chat.job.config.sequence_length
    with pytest.raises(DataError, match="lengths of documents whose sum is not the number of tokens"):
        prompts_of({"a": forged}, {"a": "chat"}, Generate(prompts=5), 8, length, RowBounds())
    rows = HeldOutRows({"a": forged}, {"a": forged.manifest.rows}, [], {"a": "chat"})
    with pytest.raises(DataError, match=rf"{tmp_path}/test: lengths of documents whose sum is not"):
        list(rows.tables(RowBounds()))


def test_every_corpus_gives_its_share_of_prompts(chat):
    test = chat.packed.corpora["test"]["test"]
    forms, length = dict.fromkeys("abc", "chat"), chat.job.config.sequence_length
    assert len(prompts_of(dict.fromkeys("abc", test), forms, Generate(prompts=5), 8, length, RowBounds())) == 5
    assert PackedRows(test).rows


@pytest.mark.parametrize(
    ("marks", "run"), [("--xx-", (2, 4)), ("xx", (0, 2)), ("x-x", (2, 3)), ("---", None), ("", None), ("-x", (1, 2))]
)
def test_the_last_trained_span_of_labels(marks, run):
    assert last_trained_span(np.array([mark == "x" for mark in marks], dtype=bool)) == run


@pytest.mark.parametrize(("total", "count", "numbers"), [(5, 2, [0, 4]), (3, 9, [0, 1, 2]), (0, 3, []), (4, 0, [])])
def test_spread_takes_the_first_and_the_last(total, count, numbers):
    assert evenly_spaced(total, count) == numbers


# --- splits and methods


def test_the_validation_split_is_measured_where_there_is_no_test_split(chat):
    artifacts = chat.packed.corpora["test"]
    assert held_out_split(chat.packed)[0] == "test"
    empty = type(chat.packed)(
        chat.packed.store, chat.packed.uri, "tiny", (), {"test": artifacts | {"test": _empty(artifacts["test"])}}
    )
    split, found = held_out_split(empty)
    assert (split, found["test"].uri) == ("validation", artifacts["validation"].uri)


def _empty(artifact):
    from dataclasses import replace

    return type(artifact)(artifact.store, artifact.uri, replace(artifact.manifest, files=[], digest=""))


def test_a_probe_has_the_rates_of_each_class(tmp_path):
    run = make_run(tmp_path, "probe", steps=30)
    evaluation = evaluate(run.job, run.outcome, run.packed)
    rows = [line for table in run.packed.corpora["test"]["test"].tables() for line in table.to_pylist()]
    said = []
    for line in rows:
        ids = torch.tensor([line["ids"]])
        with torch.inference_mode():
            at = torch.arange(ids.shape[1])[None]
            starts, ends = torch.tensor([0, ids.shape[1]]), torch.tensor([ids.shape[1] - 1])
            said.append(int(run.trained.scores(ids, at, starts, ends).argmax()))
    wanted = [line["label"] for line in rows]
    right = sum(one == other for one, other in zip(wanted, said, strict=True))
    scores = evaluation["generation"]
    assert scores["accuracy"] == pytest.approx(right / len(rows)) == evaluation["after"]["test"]["accuracy"]
    assert {"f1/even", "f1/odd", "macro_f1"} <= scores.keys()
    assert evaluation["after"]["test"]["label_tokens"] == len(rows)
    answers = evaluation["answers"]
    assert [one["document"] for one in answers] == [line["documents"][0] for line in rows]
    names = run.job.classes
    assert [one["reference"] for one in answers] == [names[at] for at in wanted]
    assert [one["generated"] for one in answers] == [names[at] for at in said]
    assert all(1 / len(names) <= one["confidence"] <= 1 and one["prompt"] for one in answers)


@pytest.mark.parametrize("padded", [True, False])
def test_batches_of_prompts_are_bounded_in_tokens_and_in_prompts_the_shortest_first(monkeypatch, padded):
    prompts = [[0] * length for length in (5, 3, 3, 9, 3, 1, 5, 3)]
    for most_tokens, most in ((40, 32), (41, 3), (12, 2), (1000, 32), (1, 32)):
        monkeypatch.setattr(generate, "_BATCH_TOKENS", most_tokens)
        monkeypatch.setattr(generate, "_BATCH_PROMPTS", most)
        found = list(generate._batches(prompts, 5, padded))
        order = [at for batch in found for at in batch]
        assert order == sorted(range(8), key=lambda at: (len(prompts[at]), at))
        for batch, following in zip(found, [*found[1:], None], strict=True):
            sizes = [len(prompts[at]) for at in batch]
            assert len(batch) == 1 or (len(batch) * (max(sizes) + 5) <= most_tokens and len(batch) <= most)
            assert padded or len(set(sizes)) == 1
            if following:
                longest = len(prompts[following[0]])
                full = len(batch) == most or (len(batch) + 1) * (longest + 5) > most_tokens
                assert full or (not padded and longest != sizes[0]), "one more would not have fitted"
