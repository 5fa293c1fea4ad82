"""`raymill pack` from files to rows: found again when finished, refused when it would differ, and a preview."""

import io
import json
import os
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from rich.console import Console

from raymill.cluster.artifact import MANIFEST
from raymill.cluster.engine import Engine
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.progress import Progress, ProgressLines
from raymill.cluster.session import Session
from raymill.cluster.store.store import Store
from raymill.training.commands import pack as pack_verb
from raymill.training.data.order import Order
from raymill.training.data.packed import PackedRows
from raymill.training.job import report_overflow
from raymill.training.pack import job, packing, tokenise
from raymill.training.pack.job import pack
from raymill.training.pack.packed_run import PackedRun
from raymill.training.pack.summary import summary
from raymill.training.pack.template import CHATML
from raymill.training.plan.data import find_data
from raymill.training.tokenizer.preview import preview, print_previews
from tests.support.inline import InlineEngine
from tests.support.pack_runs import packed_by, settings_of, write_lines
from tests.support.packed_examples import config as plain_config
from tests.support.tiny_tokenizers import saved, tiny
from tests.support.word_model import word_model

TEXTS = [f"Document {n}: " + "the quick brown fox jumps over the lazy dog. " * (n % 5 + 1) for n in range(60)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> str:
    rows = [{"id": f"d{n}", "text": text} for n, text in enumerate(TEXTS)]
    return write_lines(tmp_path_factory.mktemp("corpus") / "texts.jsonl", rows)


@pytest.fixture(autouse=True)
def without_ray(monkeypatch):
    monkeypatch.setattr(job, "Engine", InlineEngine)


def never(*_, **__):
    raise AssertionError("nothing was to be done")


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "Engine", InlineEngine)
        packed_by(corpus, output)
    return output


# --- a finished folder


def test_every_document_is_in_one_split_and_what_was_packed_is_found_by_its_folder(finished):
    packed = PackedRun.load(Store(), str(finished / "packed"))
    names = {
        split: {name for row in artifact.table().to_pylist() for name in row["documents"]}
        for split, artifact in packed.corpora["corpus-0"].items()
    }
    assert set.union(*names.values()) == {f"d{n}" for n in range(60)}
    assert sum(map(len, names.values())) == 60 and len(names["train"]) == 48
    order = Order.for_training(plain_config(**settings_of("-", finished)), packed)
    assert order.rows_per_pass == packed.rows("train") == PackedRows(packed.split("train")[0]).rows


def test_packed_again_nothing_is_done(corpus, finished, monkeypatch):
    monkeypatch.setattr(job.PackJob, "_make", never)
    assert packed_by(corpus, finished).fingerprint == PackedRun.load(Store(), str(finished / "packed")).fingerprint


def test_runs_that_differ_in_training_alone_share_a_folder(corpus, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(job.PackJob, "_make", never)
    other = {"packed": str(finished / "packed"), "optimizer": {"learning_rate": 1.0}, "steps": 3, "engine": "fsdp2"}
    assert packed_by(corpus, tmp_path, **other).uri == str(finished / "packed")


def test_the_same_corpus_packed_elsewhere_has_the_same_fingerprint_and_another_seed_has_not(corpus, finished, tmp_path):
    first = PackedRun.load(Store(), str(finished / "packed")).fingerprint
    units_of_a_mib = {"execution": {"unit_mib": 1}}
    assert packed_by(corpus, tmp_path / "a", **units_of_a_mib).fingerprint == first
    assert packed_by(corpus, tmp_path / "b", seed=2).fingerprint != first


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"sequence_length": 32}, "sequence_length was 64, now 32"),
        ({"packing": {"overflow": "truncate"}}, r'corpora.corpus-0.overflow was "split", now "truncate"'),
        ({"seed": 7}, "seed was 1, now 7"),
        ({"split": {"train": 0.9, "validation": 0.1, "test": 0}}, "split.test was 0.1, now 0"),
    ],
)
def test_a_folder_packed_in_another_way_is_refused_with_the_difference(corpus, finished, change, told):
    with pytest.raises(DataError, match=told) as refused:
        packed_by(corpus, finished, **change)
    assert "replace=True" in str(refused.value)
    assert PackedRun.load(Store(), str(finished / "packed")), "and what stands there is left as it is"


@pytest.fixture(params=["fitted", "of the model"])
def tokenizer_settings(request, tmp_path) -> dict:
    """Settings of a run whose tokenizer is fitted to the corpus, and of one that has it beforehand."""
    if request.param == "fitted":
        return {}
    return {"model": {"config": {"model_type": "llama", "vocab_size": 400}, "tokenizer": saved(tmp_path / "t", tiny())}}


@pytest.mark.parametrize("verify", [False, True])
def test_a_corpus_whose_files_changed_is_refused_and_replace_packs_it_anew(tmp_path, tokenizer_settings, verify):
    path = write_lines(tmp_path / "c.jsonl", [{"text": text} for text in TEXTS])
    before = packed_by(path, tmp_path / "run", **tokenizer_settings)
    write_lines(tmp_path / "c.jsonl", [{"text": text + "!"} for text in TEXTS])
    with pytest.raises(DataError, match=r"the files of .*/c\.jsonl changed \(c\.jsonl had"):
        packed_by(path, tmp_path / "run", verify=verify, **tokenizer_settings)
    after = packed_by(path, tmp_path / "run", replace=True, **tokenizer_settings)
    assert after.fingerprint != before.fingerprint
    assert PackedRun.load(Store(), after.uri).fingerprint == after.fingerprint


def test_files_that_changed_are_named_with_what_differs(tmp_path, tokenizer_settings):
    folder = tmp_path / "c"
    folder.mkdir()
    for name in ("a", "b", "d"):
        write_lines(folder / f"{name}.jsonl", [{"text": f"{name} {text}"} for text in TEXTS[:20]])
    packed_by(str(folder), tmp_path / "run", **tokenizer_settings)
    os.utime(folder / "a.jsonl", (1, 1))
    with pytest.raises(DataError, match=r"c changed \(a\.jsonl has the same size and another time stamp or ETag\)\."):
        packed_by(str(folder), tmp_path / "run", **tokenizer_settings)
    (folder / "b.jsonl").unlink()
    write_lines(folder / "d.jsonl", [{"text": "short"}])
    write_lines(folder / "e.jsonl", [{"text": "new"}])
    with pytest.raises(
        DataError, match=r"\(b\.jsonl is gone, a\.jsonl has the same .*, d\.jsonl had .* bytes, now 18 and 1 m"
    ):
        packed_by(str(folder), tmp_path / "run", **tokenizer_settings)


def test_a_corpus_and_a_tokenizer_that_both_changed_are_both_named(tmp_path):
    path = write_lines(tmp_path / "c.jsonl", [{"text": text} for text in TEXTS])
    models = [
        {"config": {"model_type": "llama", "vocab_size": 400}, "tokenizer": saved(tmp_path / name, tiny())}
        for name in ("one", "two")
    ]
    packed_by(path, tmp_path / "run", model=models[0])
    write_lines(tmp_path / "c.jsonl", [{"text": text + "!"} for text in TEXTS])
    with pytest.raises(DataError, match=r"c\.jsonl changed .*; tokenizer\.from was .*/one\", now .*/two"):
        packed_by(path, tmp_path / "run", model=models[1])


def test_another_corpus_is_refused_with_both_places(corpus, finished, tmp_path):
    other = write_lines(
        tmp_path / "other.jsonl", [{"id": str(n), "text": f"other {text}"} for n, text in enumerate(TEXTS)]
    )
    with pytest.raises(DataError, match=r"corpus corpus-0 was .*/texts\.jsonl, now .*/other\.jsonl\."):
        packed_by(other, finished)


def test_a_chat_template_that_was_edited_in_place_is_refused(tmp_path):
    path = write_lines(tmp_path / "c.jsonl", [{"messages": CHAT}] * 40)
    template = tmp_path / "template.jinja"
    text = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    template.write_text(text)
    model = {
        "config": {"model_type": "llama", "vocab_size": 300},
        "tokenizer": "train",
        "chat_template": str(template),
    }
    more = {"model": model, "columns": {"messages": "messages"}, "sequence_length": 64}
    before = packed_by(path, tmp_path / "run", **more)
    template.write_text(text.replace(": ", " says "))
    with pytest.raises(DataError, match="replace=True"):
        packed_by(path, tmp_path / "run", **more)
    assert packed_by(path, tmp_path / "run", True, **more).fingerprint != before.fingerprint


def test_a_tokenizer_is_not_fitted_for_a_model_of_files(corpus, tmp_path):
    word_model(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"model\.tokenizer: `train` fits the tokenizer of a model with random"):
        packed_by(corpus, tmp_path / "run", model={"name": str(tmp_path / "model"), "tokenizer": "train"})


def test_rows_are_found_again_for_an_equal_tokenizer_at_another_path_and_refused_for_another(corpus, tmp_path):
    saved(tmp_path / "one", tiny())
    saved(tmp_path / "same", tiny())
    saved(tmp_path / "other", tiny(adds_bos=True))

    def packed(name: str, **more) -> PackedRun:
        model = {"config": {"model_type": "llama", "vocab_size": 400}, "tokenizer": str(tmp_path / name)}
        return packed_by(corpus, tmp_path / "run", model=model, **more)

    first = packed("one")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job.PackJob, "_make", never)
        assert packed("same").fingerprint == first.fingerprint
    with pytest.raises(
        DataError, match=r"another tokenizer than the config's \(.*/other, with its chat template\).*replace=True"
    ):
        packed("other")
    with pytest.raises(DataError, match=r"seed was 1, now 2; tokenizer\.from was .*/one\", now .*/other"):
        packed("other", seed=2)
    (tmp_path / "run" / "packed" / "tokenizer" / "prepared.json").unlink()
    with pytest.raises(DataError, match=r"settings: the tokenizer or its chat template is another.*replace=True"):
        packed("other")
    assert packed("same").fingerprint == first.fingerprint


def test_packing_that_was_cut_short_is_continued_and_until_then_not_used(corpus, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(job, "pack_stage", never)
        with pytest.raises(AssertionError):
            packed_by(corpus, tmp_path)
    with pytest.raises(DataError, match=r"pack\.json is missing"):
        PackedRun.load(Store(), str(tmp_path / "packed"))
    assert packed_by(corpus, tmp_path).rows("train") > 0


def test_an_artifact_that_was_packed_over_is_not_taken_for_the_one_that_was_named(corpus, tmp_path):
    packed = packed_by(corpus, tmp_path)
    manifest = Path(packed.uri, "corpus-0", "train", MANIFEST)
    plain = json.loads(manifest.read_text())
    counters = plain["counters"] | {"tokens/train": plain["counters"]["tokens/train"] + 1}
    manifest.write_text(json.dumps(plain | {"counters": counters, "digest": ""}))  # computed
    with pytest.raises(DataError, match="its digest is not in pack"):
        PackedRun.load(Store(), packed.uri)


def test_little_is_packed_without_ray_and_the_rows_are_the_same(corpus, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "Engine", Engine)
    packed = pack(plain_config(**settings_of(corpus, tmp_path)), Session(address="nowhere:1"), Progress())
    assert packed.fingerprint == PackedRun.load(Store(), str(finished / "packed")).fingerprint


@pytest.mark.slow
@pytest.mark.ray
def test_spread_over_ray_the_rows_are_the_same(corpus, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "Engine", Engine)
    monkeypatch.setattr(tokenise, "SMALL_BYTES", 0)
    monkeypatch.setattr(packing, "SMALL_TOKENS", 0)
    with Session(cpus=1) as session:
        packed = pack(plain_config(**settings_of(corpus, tmp_path)), session, Progress())
        assert session.started
    assert packed.fingerprint == PackedRun.load(Store(), str(finished / "packed")).fingerprint


# --- too little


def test_fewer_rows_than_one_step_are_refused_with_both_numbers(corpus, finished):
    rows = PackedRun.load(Store(), str(finished / "packed")).rows("train")
    with pytest.raises(DataError, match=rf"{rows} rows of 64 tokens.*one step takes 1,024"):
        packed_by(corpus, finished, tokens_per_step=65536)


def test_a_corpus_that_leaves_nothing_to_train_on_says_what_became_of_it(corpus, tmp_path):
    with pytest.raises(DataError, match=r"no row to train on .*documents_dropped 60"):
        packed_by(corpus, tmp_path, sequence_length=4, tokens_per_step=4, packing={"overflow": "drop"})


# --- several corpora, classes


def test_a_mixture_is_packed_corpus_by_corpus_and_drawn_from_in_its_shares(corpus, tmp_path):
    write_lines(tmp_path / "c.jsonl", [{"text": text} for text in TEXTS[:20]])
    corpora = [
        {"path": corpus, "weight": 3, "name": "a"},
        {"path": str(tmp_path / "c.jsonl"), "weight": 1, "name": "b"},
    ]
    settings = settings_of("", tmp_path / "run") | {"corpus": corpora}
    packed = pack(plain_config(**settings), Session(), Progress())
    assert list(packed.corpora) == ["a", "b"]
    order = Order.for_training(plain_config(**settings), packed)
    sizes = [artifact.table()["ids"].to_pylist() for artifact in packed.split("train")]
    tokens = [0, 0]
    for step in range(500):
        for number, row in order.step(step):
            tokens[number] += len(sizes[number][row])
    assert tokens[0] / sum(tokens) == pytest.approx(0.75, abs=0.01)


def test_classes_of_a_probe_are_numbered_alike_in_every_row(tmp_path):
    rows = [{"text": text, "label": "odd" if n % 2 else "even"} for n, text in enumerate(TEXTS)]
    settings = settings_of(
        write_lines(tmp_path / "c.jsonl", rows),
        tmp_path / "run",
        method="probe",
        columns={"text": "text", "label": "label"},
        packing={"mode": "none", "overflow": "truncate"},
    )
    packed = pack(plain_config(**settings), Session(), Progress())
    assert packed.classes == ("even", "odd")
    counted = packed.split("train")[0].table()["label"].value_counts().to_pylist()
    assert {one["values"] for one in counted} == {0, 1}


# --- the verb


def config_file(path: Path, corpus: str, **more) -> str:
    plain = {"kind": "train", "name": "t", "steps": 5} | settings_of(corpus, path / "run", **more)
    (path / "train.yaml").write_text(yaml.safe_dump(plain))
    return str(path / "train.yaml")


def test_the_verb_tells_how_much_there_is_and_what_was_left_out(tmp_path, capsys):
    path = write_lines(tmp_path / "c.jsonl", [{"text": text} for text in [*TEXTS, "", " "]])
    pack_verb(config_file(tmp_path, path, sequence_length=32))
    told = capsys.readouterr().out
    packed = PackedRun.load(Store(), str(tmp_path / "run" / "packed"))
    assert f"{packed.rows('train'):,}" in told and "2 of 62 documents (3.2%) are left out: 2 empty" in told
    assert "are longer than a row of 32 tokens and split" in told
    assert packed.uri in told


def test_phases_are_not_packed_by_the_verb(corpus, tmp_path):
    with pytest.raises(ConfigError, match="phases"):
        pack_verb(config_file(tmp_path, corpus, phases=[{"name": "a"}, {"name": "b"}]))


# --- examples longer than a row

LONG_CHAT = [{"role": "user", "content": "why " * 20}, {"role": "assistant", "content": "because " * 20}]


def mixed_chats(path: Path, long: int, short: int) -> str:
    """Conversations of about 190 tokens and of about 30."""
    return write_lines(path / "c.jsonl", [{"messages": LONG_CHAT}] * long + [{"messages": CHAT}] * short)


def test_pack_tells_which_share_of_conversations_is_too_long(tmp_path, capsys):
    path = mixed_chats(tmp_path, 30, 90)
    pack_verb(config_file(tmp_path, path, columns={"messages": "messages"}))
    told = capsys.readouterr().out
    assert "30 of 120 examples (25.0%) are longer than a row of 64 tokens and left out, with " in told
    counters = PackedRun.load(Store(), str(tmp_path / "run" / "packed")).packed("corpus-0")
    before = PackedRun.load(Store(), str(tmp_path / "run" / "packed")).tokenised("corpus-0")
    tokens = sum(before[f"tokens/{split}"] for split in ("train", "validation", "test"))
    assert f"{counters['tokens_dropped']:,.0f} of {tokens:,.0f} tokens" in told


def test_train_warns_of_conversations_that_are_too_long_before_it_trains(tmp_path):
    more = {"columns": {"messages": "messages"}}
    path = mixed_chats(tmp_path, 30, 90)
    packed, lines = packed_by(path, tmp_path / "run", **more), io.StringIO()
    report_overflow(
        packed, plain_config(**settings_of(path, tmp_path / "run", **more)).sequence_length, ProgressLines(lines)
    )
    assert lines.getvalue().startswith("warning: corpus-0: 30 of 120 examples (25.0%) are longer than a row of 64")


def test_train_tells_which_share_of_the_documents_was_left_out_before_it_trains(tmp_path):
    def told(bad: int) -> str:
        rows = [{"text": text} for text in TEXTS * 2] + [{"text": ""}] * bad
        path, lines = write_lines(tmp_path / f"{bad}.jsonl", rows), io.StringIO()
        settings = settings_of(path, tmp_path / f"run{bad}", sequence_length=256, tokens_per_step=256)
        config = plain_config(**settings)
        report_overflow(pack(config, Session(), Progress()), config.sequence_length, ProgressLines(lines))
        return lines.getvalue()

    many = told(30)
    assert many.startswith("warning: corpus-0: 30 of 150 documents (20.0%) are left out: 30 empty (such as ")
    assert f"{tmp_path}/30.jsonl byte 19300); `raymill pack CONFIG" in many
    assert told(1) == (f"corpus-0: 1 of 121 documents (0.8%) are left out: 1 empty ({tmp_path}/1.jsonl byte 19300)\n")
    assert told(0) == ""


def test_a_plan_counts_without_the_conversations_that_are_left_out(tmp_path):
    path = mixed_chats(tmp_path, 30, 90)
    settings = plain_config(**settings_of(path, tmp_path / "run", columns={"messages": "messages"}))
    assert "leaves out examples longer than 64 tokens, which this includes" in find_data(settings, 300).how
    packed = packed_by(path, tmp_path / "run", columns={"messages": "messages"})
    found = find_data(settings, 300)
    table = pa.concat_tables(packed.corpora["corpus-0"]["train"].tables())
    assert found.exact and "without 30 examples longer than a row" in found.how
    assert found.documents == sum(len(row) for row in table["documents"].to_pylist())
    labels = [label for row in table["labels"].to_pylist() for label in row]
    assert found.label_share == sum(labels) / found.tokens["corpus-0"]


@pytest.mark.parametrize(
    ("overflow", "told", "each"),
    [
        (None, "2 of 4 examples (50.0%) are longer than a row of 64 tokens and left out, with", "left out"),
        ("truncate", "2 of 4 examples (50.0%) have a question that fills a row of 64 tokens and are", "left out"),
        ("split", "label tokens ", "split into"),
    ],
)
def test_a_preview_tells_what_becomes_of_conversations_that_are_too_long(tmp_path, overflow, told, each):
    shown = drawn(
        mixed_chats(tmp_path, 2, 2), tmp_path, columns={"messages": "messages"}, packing={"overflow": overflow}
    )
    assert f"longer than a row: {each}" in shown
    assert "warning: corpus-0, its first 4 documents:" in shown and told in shown


def test_a_preview_of_conversations_that_are_all_too_long_is_refused_with_the_fix(tmp_path):
    with pytest.raises(DataError, match=r"none of the first 2 documents gives a row.*larger sequence_length"):
        drawn(mixed_chats(tmp_path, 2, 0), tmp_path, columns={"messages": "messages"}, sequence_length=16)


# --- preview

CHAT = [
    {"role": "user", "content": "What is\n1 + 1?"},
    {"role": "assistant", "content": "It is 2."},
]


def drawn(corpus: str, tmp_path: Path, terminal: bool = False, count: int = 2, **more) -> str:
    stream = io.StringIO()
    colours = "standard" if terminal else None
    console = Console(file=stream, force_terminal=terminal, width=100, highlight=False, color_system=colours)
    print_previews(preview(plain_config(**settings_of(corpus, tmp_path / "run", **more)), count), console)
    return stream.getvalue()


def test_a_preview_brackets_what_is_trained_on_and_packs_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(job.PackJob, "_make", never)
    path = write_lines(tmp_path / "c.jsonl", [{"messages": CHAT}] * 5)
    told = drawn(path, tmp_path, columns={"messages": "messages"})
    assert told.count("⟦It is 2.<|im_end|>⟧") == 2
    assert "What is↵\n1 + 1?<|im_end|>" in told and "turns: user, assistant" in told
    assert not (tmp_path / "run" / "packed" / "corpus-0").exists()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"messages": 3}] * 2, r"no row can be used.*2 bad_messages, the first at .*byte 0: column messages is 3"),
        ([{"messages": CHAT[:1]}], r"no row can be used.*1 no_assistant_turn, the first at document .*: user: What"),
        ([{"messages": [{"role": "bot", "content": "x"}, *CHAT]}],
         r"1 unknown_role.*a message of role bot; the chat template has: system, user, assistant, tool"),
    ],
)  # fmt: skip
def test_a_preview_of_data_that_cannot_be_used_is_an_error_with_an_example(tmp_path, rows, said):
    model = {"config": {"model_type": "llama", "vocab_size": 400}, "tokenizer": saved(tmp_path / "t", tiny(CHATML))}
    with pytest.raises(DataError, match=f"(?s){said}") as refused:
        drawn(write_lines(tmp_path / "c.jsonl", rows), tmp_path, columns={"messages": "messages"}, model=model)
    assert refused.value.exit_code == 2


def test_a_system_prompt_needs_a_chat_template(tmp_path):
    model = {"config": {"model_type": "llama", "vocab_size": 400}, "tokenizer": saved(tmp_path / "t", tiny())}
    columns = {"prompt": "p", "completion": "c", "system_prompt": "Be brief."}
    path = write_lines(tmp_path / "c.jsonl", [{"p": "a", "c": "b"}])
    with pytest.raises(ConfigError, match="system prompts and earlier turns are written by a chat template"):
        drawn(path, tmp_path, columns=columns, model=model)


def test_a_preview_on_a_terminal_is_coloured_unless_no_color_is_set(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "c.jsonl", [{"messages": CHAT}] * 5)
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = drawn(path, tmp_path, terminal=True, columns={"messages": "messages"})
    assert "\x1b[32mIt is 2." in coloured and "⟦" not in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    assert "⟦It is 2.<|im_end|>⟧" in drawn(path, tmp_path, terminal=True, columns={"messages": "messages"})


def test_a_preview_shows_every_reason_with_its_count_and_the_first_document(tmp_path):
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, CHAT[1]]
    bad = [[5], [6], image, CHAT[:1], [CHAT[0], {"role": "critic", "content": "no"}, CHAT[1]]]
    rows = [{"id": f"d{n}", "messages": messages} for n, messages in enumerate([*bad, CHAT, CHAT])]
    told = drawn(write_lines(tmp_path / "c.jsonl", rows), tmp_path, columns={"messages": "messages"})
    assert "left out: no_assistant_turn, the first of 1. It reads:\nuser: " in told
    assert (
        "byte 0 " in told and "left out: bad_messages, the first of 2. It reads:\nnot a message with a role: 5" in told
    )
    assert "left out: content_not_text, the first of 1. It reads:\na part of type image_url, and only text" in told
    assert (
        "document d4 " in told and "left out: unknown_role, the first of 1. It reads:\na message of role critic" in told
    )
    assert told.count("⟦It is 2.<|im_end|>⟧") == 2
    assert (
        "its first 7 documents: left out: 2 bad_messages, 1 content_not_text, 1 no_assistant_turn, 1 unknown_role"
        in told
    )


def test_files_that_are_not_read_are_counted_by_the_preview_the_plan_and_packing(tmp_path):
    (tmp_path / "c").mkdir()
    write_lines(tmp_path / "c" / "a.jsonl", [{"text": text} for text in TEXTS])
    for name in ("notes.csv", "b.txt", "c.txt", "README", ".hidden.txt", "_SUCCESS"):
        (tmp_path / "c" / name).write_text("text")
    note = "4 files are skipped (2 .txt, 1 .csv, 1 without ending); to read them, name them by a glob"
    assert f"corpus-0: {note}" in drawn(str(tmp_path / "c"), tmp_path)
    config, lines = plain_config(**settings_of(str(tmp_path / "c"), tmp_path / "run")), io.StringIO()
    assert note in find_data(config, 300).how
    for _ in range(2):  # found finished, too
        packed = pack(config, Session(), Progress())
        assert f"\n  {note}" in summary(config, packed)
    assert note in find_data(config, 300).how
    report_overflow(packed, config.sequence_length, ProgressLines(lines))
    assert f"corpus-0: {note}" in lines.getvalue()


def test_a_chat_template_that_is_not_jinja_is_refused_before_any_unit(tmp_path, monkeypatch):
    monkeypatch.setattr(InlineEngine, "run", never)
    path = write_lines(tmp_path / "c.jsonl", [{"messages": CHAT}] * 40)
    (tmp_path / "broken.jinja").write_text("{% for m in messages %}\n{{ m['role'] ")
    model = {"config": {"model_type": "llama", "vocab_size": 400}, "chat_template": str(tmp_path / "broken.jinja")}
    model["tokenizer"] = saved(tmp_path / "t", tiny(CHATML))
    with pytest.raises(ConfigError, match=r"model\.chat_template: .*broken\.jinja is not a Jinja template \(line 2: "):
        packed_by(path, tmp_path / "run", columns={"messages": "messages"}, model=model)


def test_a_token_without_embedding_stops_packing_and_the_preview_with_its_document(tmp_path):
    tokenizer = tiny(CHATML)
    size = len(tokenizer)
    tokenizer.add_tokens(["<extra>"])
    place = Path(saved(tmp_path / "base", tokenizer))
    (place / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": size}))
    rows = [{"id": f"d{n}", "text": text} for n, text in enumerate([*TEXTS, "one <extra> more"])]
    settings = settings_of(write_lines(tmp_path / "c.jsonl", rows), tmp_path / "run", model=str(place))
    told = f"document d60: has the token '<extra>', whose id {size} is not below the model's vocab_size, {size}.*embed"
    for use in (lambda config: pack(config, Session(), Progress()), lambda config: preview(config, 1)):
        with pytest.raises(ConfigError, match=told):
            use(plain_config(**settings))


def test_a_preview_for_a_probe_shows_classes_and_nothing_as_trained_on(tmp_path):
    rows = [{"text": text, "label": n % 2} for n, text in enumerate(TEXTS)]
    probe = {"method": "probe", "packing": {"mode": "none", "overflow": "truncate"}}
    columns = {"text": "text", "label": "label"}
    told = drawn(write_lines(tmp_path / "c.jsonl", rows), tmp_path, columns=columns, **probe)
    assert "; class 0" in told and "; class 1" in told
    assert "a probe predicts the class of each document" in told
    assert "tokens trained on" not in told and told.count("⟦") == 1, "in the key alone"


def test_a_preview_cuts_long_runs_and_lets_no_document_steer_the_terminal(tmp_path):
    text = "\x1b[2J[red]" + " ".join(f"word{n}" for n in range(3000))
    told = drawn(write_lines(tmp_path / "c.jsonl", [{"text": text, "id": "[bold]x"}] * 3), tmp_path)
    assert "\\x1b⟦[2J" in told and "\x1b" not in told and "[red]" in told and "document [bold]x" in told
    assert "tokens more" in told and "longer than a row: split into" in told and len(told) < 6000
