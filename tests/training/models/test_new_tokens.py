"""New tokens: one id each, embeddings that are the mean, a folder that transformers loads and that can be trained."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import raymill
from raymill.cluster.errors import ConfigError
from raymill.training.models.build import build_objective
from tests.support.export_runs import byte_tokenizer
from tests.support.tiny_models import MODELS, tiny_config

NEW = ["<tool>", "</tool>"]


def saved(folder: Path, rows: int, dtype: torch.dtype = torch.float32, **more) -> Path:
    config = tiny_config(MODELS["llama"] | {"vocab_size": rows, **more})
    model = build_objective(config).model.to(dtype)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("spare", [0, 1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_is_one_token_with_the_mean_embedding_and_nothing_else_changes(tmp_path, spare, tied, dtype):
    before = len(byte_tokenizer())
    base = saved(tmp_path / "base", before + spare, dtype, tie_word_embeddings=tied)
    found = raymill.add_tokens(base, tmp_path / "more", NEW)
    assert (found.first, found.embeddings) == (before, max(before + 2, before + spare))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "more")
    ids = tokenizer("a<tool>b</tool>", add_special_tokens=False)["input_ids"]
    assert ids == [*tokenizer("a")["input_ids"], before, *tokenizer("b")["input_ids"], before + 1]
    old, new = (AutoModelForCausalLM.from_pretrained(one, dtype="auto") for one in (base, tmp_path / "more"))
    assert new.config.vocab_size == found.embeddings and new.dtype == dtype
    for get in ("get_input_embeddings", "get_output_embeddings"):
        rows, earlier = getattr(new, get)().weight, getattr(old, get)().weight
        assert torch.equal(rows[:before], earlier[:before]) and torch.equal(rows[before + 2 :], earlier[before + 2 :])
        mean = earlier[:before].double().mean(0)
        for row in rows[before : before + 2]:
            torch.testing.assert_close(row.double(), mean, atol=1e-6 if dtype == torch.float32 else 2e-4, rtol=5e-3)
    others = {name: one for name, one in new.named_parameters() if "embed_tokens" not in name and "lm_head" not in name}
    assert all(torch.equal(one, old.get_parameter(name)) for name, one in others.items())


@pytest.mark.parametrize(
    ("tokens", "why"),
    [
        (["<a>", "<a>"], "is given twice"),
        (["<|im_end|>"], "is a token already"),
        (["<a>", " "], "is empty"),
        (["\udcff"], "no text in UTF-8"),
    ],
)
def test_what_is_no_new_token_is_refused_and_nothing_is_written(tmp_path, tokens, why):
    base = saved(tmp_path / "base", 300)
    with pytest.raises(ConfigError, match=why):
        raymill.add_tokens(base, tmp_path / "more", tokens)
    assert not (tmp_path / "more").exists()
    with pytest.raises(ConfigError, match="there are files already"):
        raymill.add_tokens(base, base, ["<b>"])


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(tmp_path):
    """The rows between were random, and the new token the mean of them."""
    base = saved(tmp_path / "base", 300)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens([f"<{number}>" for number in range(100)])
    tokenizer.save_pretrained(base)
    with pytest.raises(ConfigError, match=r"and the model 300 embeddings\. They do not belong together"):
        raymill.add_tokens(base, tmp_path / "more", ["<a>"])
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_model_trains_its_new_tokens_and_is_exported_with_them(tmp_path, method, monkeypatch):
    from tests.support.train_inline import train_inline

    base = saved(tmp_path / "base", 300)
    raymill.add_tokens(base, tmp_path / "more", NEW)
    rows = [{"prompt": f"<tool>{n}", "completion": f"</tool> {n}", "id": f"d{n}"} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = train_inline(
        {
            "corpus": str(tmp_path / "rows.jsonl"),
            "columns": {"prompt": "prompt", "completion": "completion"},
            "model": str(tmp_path / "more"),
            "method": method,
            "lora": {"rank": 2, "modules_to_save": ["embed_tokens", "lm_head"]},
            "optimizer": {"learning_rate": 1e-2},
            "output": str(tmp_path / "run"),
        },
        monkeypatch,
    )
    exported = Path(run.uri, "export", "full" if method == "full" else "merged")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(exported), AutoTokenizer.from_pretrained(exported)
    token = tokenizer("<tool>", add_special_tokens=False)["input_ids"]
    assert len(token) == 1
    before = AutoModelForCausalLM.from_pretrained(tmp_path / "more")
    for get in ("get_input_embeddings", "get_output_embeddings"):
        rows = [getattr(one, get)().weight[token[0]] for one in (before, model)]
        assert (rows[0] - rows[1]).abs().max() > 1e-3
