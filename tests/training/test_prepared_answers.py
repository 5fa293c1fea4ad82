"""Data sets of `prepare` with compared and judged answers need no `columns`, and are packed as their source is."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.inline import prepare_inline
from tests.support.pack_runs import packed_by, write_lines
from tests.support.train_inline import train_inline

MODEL = {
    "config": {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
               "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "vocab_size": 400},
    "tokenizer": "train", "chat_template": "chatml",
}  # fmt: skip
HOW = {"model": MODEL, "sequence_length": 512, "tokens_per_step": 1024}


def turns(*said: str) -> list[dict]:
    return [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(said)]


def compared(at: int) -> dict:
    """Of every second pair the question follows other turns."""
    before = turns(f"where is river {at}?", "in the north") if at % 2 else []
    prompt = [{"role": "system", "content": "Be brief."}, *before, *turns(f"how long is it, or river {at}?")]
    answers = {"chosen": f"it is {3 * at} units long", "rejected": f"a fox, {at}"}
    return {"id": f"p{at}", "prompt": prompt} | {
        name: [{"role": "assistant", "content": text}] for name, text in answers.items()
    }


SCORES = (1.5, 4, 3)
# Objective -> shape, settings of records, rows.
CASES = {
    "dpo": ("preference_messages", {}, [compared(at) for at in range(60)]),
    "reward": (
        "preference_messages", {},
        [compared(at) | {"margin": None if at % 3 else at / 8} for at in range(60)],
    ),
    "reward, ranked": (
        "preference", {},
        [{"id": f"r{at}", "instruction": f"how long is river {at}?",
          "completions": [{"response": f"{at} units, or {score}", "overall_score": score} for score in SCORES]}
         for at in range(60)],
    ),
    "kto": (
        "pairs", {"undesirable": "keep"},
        [{"id": f"a{at}", "prompt": f"how long is river {at // 2}?", "completion": f"{at} units", "label": bool(at % 3)}
         for at in range(60)],
    ),
    "kto, messages": (
        "messages", {"undesirable": "keep"},
        [{"id": f"a{at}", "messages": turns("which river?", f"river {at}", "how long is it?", f"{at} units"),
          "label": at % 3 == 0} for at in range(60)],
    ),
    "grpo": (
        "pairs", {},
        [{"id": f"g{at}", "prompt": f"how much is {at} and 1?", "completion": str(at + 1)} for at in range(60)],
    ),
    "grpo, verl": (
        "messages", {},
        [{"id": f"v{at}", "data_source": "sums", "ability": "math", "extra_info": {"index": at, "split": "train"},
          "prompt": [{"role": "system", "content": "Be brief."}, *turns(f"how much is {at} and 1?")],
          "reward_model": {"style": "rule", "ground_truth": at + 1 if at % 2 else str(at + 1)}} for at in range(60)],
    ),
}  # fmt: skip


@pytest.fixture(params=CASES)
def case(request, tmp_path, monkeypatch) -> tuple[dict, str, str]:
    """(the settings of the training, the source, the data set)."""
    shape, records, rows = CASES[request.param]
    source = write_lines(tmp_path / "rows.jsonl", rows)
    settings = {
        "inputs": [{"path": source, "id": "id"}], "records": {"shape": shape} | records, "dedup": None,
        "validate": {"question_chars": None, "answer_chars": None, "truncated_answers": "keep"},
        "output": str(tmp_path / "prepared"),
    }  # fmt: skip
    objective = request.param.partition(",")[0]
    more = {"grpo": {"max_new_tokens": 4, "samples": 2, "rewards": [{"score": "exact_match"}]}} | {
        "packing": {"mode": "none"}
    }
    return (
        HOW | {"objective": objective} | (more if objective == "grpo" else {}),
        source,
        prepare_inline(settings, monkeypatch).uri,
    )


def documents_of(run) -> dict[tuple, tuple]:
    """The documents of all packed rows of all splits, by id and tokens: (which tokens are trained on, judgement)."""
    found = {}
    for artifact in run.corpora["corpus-0"].values():
        for row in artifact.table().to_pylist():
            ends = np.cumsum(row["lengths"])
            judgements = row.get("judgements") or [None] * len(ends)
            for at, (start, end) in enumerate(zip(ends - row["lengths"], ends, strict=True)):
                about = tuple(row["labels"][start:end]), repr(judgements[at])
                found[row["documents"][at], *row["ids"][start:end]] = about
    return found


def test_packed_rows_of_a_data_set_are_those_of_its_source(case, tmp_path):
    settings, source, prepared = case
    raw = packed_by(source, tmp_path / "raw", **settings)
    # Of the same tokenizer, which is fitted to the training split, and the splits differ.
    model = MODEL | {"tokenizer": raw.tokenizer_uri}
    own = packed_by(prepared, tmp_path / "own", **settings | {"model": model})
    assert documents_of(own) == documents_of(raw)
    assert len(documents_of(own)) == (60 if settings["objective"] in ("kto", "grpo") else 120)
    if settings["objective"] == "reward":
        assert any("nan" not in judgement for _, judgement in documents_of(own).values())


def test_a_data_set_trains_without_columns(case, tmp_path, monkeypatch):
    settings, _, prepared = case
    more = {"corpus": prepared, "output": str(tmp_path / "run"), "steps": 2}
    run = train_inline(settings | more, monkeypatch)
    steps = [json.loads(line) for line in Path(run.uri, "steps.jsonl").read_text().splitlines()]
    measured = "reward_mean" if settings["objective"] == "grpo" else "loss"
    losses = [line[measured] for line in steps if measured in line]
    assert len(losses) == 2 and np.isfinite(losses).all()
    if settings["objective"] == "dpo":
        assert losses[0] == pytest.approx(np.log(2), abs=1e-6)
