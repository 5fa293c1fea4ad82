"""`raymill train` on answers that were compared or judged, whole and with bad input."""

import json
from pathlib import Path

import pytest
import yaml

from raymill import training
from raymill.cluster import cli
from raymill.cluster.config import load
from raymill.training.objectives import OBJECTIVES
from tests.support.inline import prepare_inline
from tests.support.pack_runs import write_lines
from tests.support.train_inline import PLAIN, train_inline, train_without_ray

MORE = {"model": {"config": {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64,
                             "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
                             "max_position_embeddings": 128, "vocab_size": 400},
                  "tokenizer": "train", "chat_template": "chatml"},
        "sequence_length": 128, "tokens_per_step": 512}  # fmt: skip


def rows(count: int = 60) -> list[dict]:
    return [
        {"key": f"p{at}", "prompt": f"how long is river {at}?", "chosen": f"{3 * at} units", "rejected": f"a fox, {at}"}
        for at in range(count)
    ]


def trained(tmp_path: Path, monkeypatch, corpus: list[dict] | str, **more):
    path = corpus if isinstance(corpus, str) else write_lines(tmp_path / "corpus.jsonl", corpus)
    return train_inline(MORE | {"corpus": path, "output": str(tmp_path / "run")} | more, monkeypatch)


def steps(run) -> list[dict]:
    lines = [json.loads(line) for line in Path(run.uri, "steps.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


@pytest.mark.parametrize("objective", ["dpo", "reward", "kto"])
def test_a_prepared_data_set_of_preferences_needs_no_columns(tmp_path, monkeypatch, objective):
    source = write_lines(tmp_path / "rows.jsonl", rows())
    settings = {
        "inputs": [{"path": source, "id": "key"}],
        "records": {"shape": "preference"},
        "validate": {"question_chars": None, "answer_chars": None, "truncated_answers": "keep"},
        "output": str(tmp_path / "prepared"),
    }
    prepared = prepare_inline(settings, monkeypatch)
    run = trained(tmp_path, monkeypatch, prepared.uri, objective=objective)
    first = steps(run)[0]
    assert {"reward_chosen", "reward_rejected", "reward_margin", "reward_accuracy"} <= first.keys()
    if objective == "dpo":
        assert first["loss"] == pytest.approx(0.6931472, abs=1e-6)
    report = Path(run.uri, "report.html").read_text()
    assert "reward" in report
    card = next(Path(run.uri, "export").rglob("README.md")).read_text()
    assert f"- {objective}" in card or objective in card


@pytest.mark.parametrize(
    "path", sorted(Path(training.__path__[0], "configs").glob("*.yaml")), ids=lambda path: path.stem
)
def test_the_examples_of_trainings_are_configs_without_settings_that_have_no_effect(path):
    config = load(str(path))
    assert config.name == path.stem and not config.without_effect
    last = path.stem.rpartition("-")[2]
    assert config.objective == (last if last in OBJECTIVES else "sft")


@pytest.mark.parametrize("name", ["dpo", "reward"])
def test_the_examples_of_preferences_train(tmp_path, monkeypatch, name):
    """With their data in the form that they state, on a tiny model and one CPU worker."""
    plain = yaml.safe_load(Path(training.__path__[0], "configs", f"{name}.yaml").read_text())
    tiny = MORE | {"workers": {"count": 1}, "corpus": write_lines(tmp_path / "preferences.jsonl", rows(200))}
    tiny |= {"output": str(tmp_path / "run"), "evaluate": {"every_steps": 2}, "track": {"tensorboard": False}}
    tiny |= {"sequence_length": 128, "tokens_per_step": 512, "engine": "ddp", "export": {}}
    tiny |= {"epochs": None}  # PLAIN has a number of steps
    run = train_inline(plain | tiny, monkeypatch)
    measured = [json.loads(line) for line in Path(run.uri, "steps.jsonl").read_text().splitlines()]
    contract = {"loss", "reward_chosen", "reward_rejected", "reward_margin", "reward_accuracy"}
    contract |= {"logp_chosen", "logp_rejected"} if name == "dpo" else set()
    assert all(contract <= line.keys() for line in measured if "loss" in line)
    page = Path(run.uri, "report.html").read_text()
    assert "Held-out pairs by the length of the chosen answer" in page and "Error of the split" in page


def run_command(tmp_path, monkeypatch, capsys, corpus: list[dict], **more) -> tuple[int, str]:
    """`raymill train` as a command: (exit status, standard error and output)."""
    path = write_lines(tmp_path / "c.jsonl", corpus)
    config = PLAIN | MORE | {"steps": 2, "corpus": path, "output": str(tmp_path / "run")} | more
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    train_without_ray(monkeypatch)
    code: object = 0
    try:
        cli.main(["train", str(tmp_path / "c.yaml")])
    except SystemExit as ended:
        code = ended.code
    captured = capsys.readouterr()
    return int(str(code or 0)), captured.err + captured.out


def labelled(labels: list) -> list[dict]:
    each = zip(rows(len(labels)), labels, strict=True)
    return [{"prompt": row["prompt"], "completion": row["chosen"], "label": label} for row, label in each]


WRONG_COLUMNS = {"prompt": "prompt", "chosen": "best", "rejected": "worst"}
REFUSED = {
    "columns that are not there": (
        {"objective": "dpo", "columns": WRONG_COLUMNS},
        rows(),
        "no column best (columns.chosen). It has: key, prompt, chosen, rejected. Two answers are `columns: {prompt: "
        "prompt, chosen: chosen, rejected: rejected}`.",
    ),
    "one answer alone": (
        {"objective": "dpo"},
        [{"prompt": "a?", "chosen": "b"}],
        "no columns of answers that were compared, chosen and rejected; it has prompt, chosen. Name them, as in "
        "`columns: {prompt: COLUMN, chosen: COLUMN, rejected: COLUMN}`.",
    ),
    "equal answers": (
        {"objective": "dpo"},
        [row | {"rejected": row["chosen"]} for row in rows()],
        "no row can be used. Left out:\n  60 equal_answers, the first at ",
    ),
    "margins as text": (
        {"objective": "reward"},
        [row | {"margin": "wide"} for row in rows()],
        "column margin is 'wide'; wanted a number",
    ),
    "no rows": ({"objective": "dpo"}, [], "there are no rows. Point `corpus` at documents."),
    "a single pair": (
        {"objective": "dpo"},
        rows(1),
        "1 row of 128 tokens to train on, and one step takes 4 (tokens_per_step 512). Give more documents, or set "
        "tokens_per_step to 128 or less.",
    ),
    "rows that are too short": (
        {"objective": "dpo", "sequence_length": 16, "tokens_per_step": 64},
        rows(),
        "60 of 60 examples (100.0%) are longer than a row of 16 tokens and left out",
    ),
    "texts": ({"objective": "dpo"}, [{"text": "a b"}] * 60, "no columns of answers that were compared"),
    "columns of texts": (
        {"objective": "dpo", "columns": {"text": "text"}},
        [{"text": "a b"}] * 60,
        "objective dpo reads answers that were compared, chosen and rejected. Name them, as in `columns: {prompt: "
        "COLUMN, chosen: COLUMN, rejected: COLUMN}`.",
    ),
    "answers without judgements": (
        {"objective": "kto", "columns": {"prompt": "prompt", "completion": "completion"}},
        labelled([True] * 60),
        "objective kto reads answers that were judged, with a label true or false. Name them",
    ),
    "other judgements": (
        {"objective": "kto", "columns": {"prompt": "prompt", "completion": "completion", "label": "label"}},
        labelled(["good"] * 60),
        "60 bad_label, the first at ",
    ),
    "pairs with sft": ({}, rows(), "no column text (columns.text). It has: key, prompt, chosen, rejected."),
    "judged answers with sft": ({}, labelled([True, False] * 30), "marks desirable and undesirable answers"),
    "smoothing of hinge": (
        {"objective": "dpo", "dpo": {"loss": "hinge", "label_smoothing": 0.1}},
        rows(),
        "dpo.label_smoothing: loss hinge has none; remove it, or set loss: sigmoid or robust.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_a_sentence(tmp_path, monkeypatch, capsys, case):
    settings, corpus, words = REFUSED[case]
    code, said = run_command(tmp_path, monkeypatch, capsys, corpus, **settings)
    assert code == 2 and words in said, said
    assert "Traceback" not in said and "unexpected" not in said


WARNED = {
    "some answers are equal": (
        {"objective": "dpo"},
        [row | ({"rejected": row["chosen"]} if at % 4 == 0 else {}) for at, row in enumerate(rows())],
        "warning: corpus-0: 15 of 60 documents (25.0%) are left out: 15 equal_answers",
    ),
    "answers of one kind": (
        {"objective": "kto"},
        labelled([False] * 60),
        "answers to train on are undesirable, and the loss compares them with desirable ones",
    ),
    "far more of one kind": (
        {"objective": "kto"},
        labelled([at % 10 > 0 for at in range(60)]),
        "advise kto.desirable_weight / kto.undesirable_weight from ",
    ),
    "margins that are not used": (
        {"objective": "dpo"},
        [row | {"margin": 1.0} for row in rows()],
        "columns and keys that are not used, with the number of rows that have them: key (60), margin (60)",
    ),
    "named margins that are not used": (
        {"objective": "dpo", "columns": {name: name for name in ("prompt", "chosen", "rejected", "margin")}},
        [row | {"margin": 1.0} for row in rows()],
        "columns.margin: has no effect, because only objective reward trains on margins. Remove it.",
    ),
    "some pairs are longer than a row": (
        {"objective": "dpo"},
        [row | ({"chosen": "long " * 100} if at % 4 == 0 else {}) for at, row in enumerate(rows())],
        "warning: corpus-0: 15 of 60 examples (25.0%) are longer than a row of 128 tokens and left out",
    ),
}


@pytest.mark.parametrize("case", WARNED)
def test_doubtful_input_is_named_and_the_rest_is_trained_on(tmp_path, monkeypatch, capsys, case):
    settings, corpus, words = WARNED[case]
    code, said = run_command(tmp_path, monkeypatch, capsys, corpus, **settings)
    assert code == 0 and words in said, said
