"""Our masks beside those of TRL's SFTTrainer, with its own templates for training; where they differ, how and why.

TRL finds assistant turns by `{% generation %}` marks that it adds to templates of models it knows; we render prefixes
of the template as it is. On the same template both must train on the same tokens, with three differences on purpose:

    line feeds around a turn   its marks in Qwen's templates include the line feed after <|im_end|>, in Qwen 2.5's also
                               the one that ends the generation prompt; neither is ever generated; we train on neither
    an empty thought           TRL trains on `<think>\\n\\n</think>` that the template made up; we give it as context
    a straddling token         where a token of prompt + completion straddles the boundary, TRL trains on the joint
                               token
                               and trains on a prompt that lacks its end; we cut there, as inference does
"""

import json
import re
from pathlib import Path

import pytest

from raymill.training.pack.documents import Chat, Document, Pair
from raymill.training.pack.encode import Encoder, with_prompts
from tests.support.tiny_tokenizers import SPECIALS, tiny

trl = pytest.importorskip("trl")

MESSAGES = [
    {"role": "system", "content": "be quick"},
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "world"},
    {"role": "user", "content": "what is it"},
    {"role": "assistant", "content": "the lazy dog"},
]


@pytest.fixture(scope="module")
def model():
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=512,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
        )
    )


def theirs(model, tokenizer, example, folder, **how):
    """(ids, which of them are trained on) of one example as TRL's trainer would have it."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    settings = SFTConfig(
        output_dir=str(folder), use_cpu=True, report_to="none", bf16=False, max_length=None, eos_token=None, **how
    )
    trainer = SFTTrainer(model, args=settings, train_dataset=Dataset.from_list([example]), processing_class=tokenizer)
    row = trainer.train_dataset[0]
    labels = row.get("labels", row["input_ids"])
    return row["input_ids"], [label != -100 for label in labels]


def ours(tokenizer, content):
    (example,) = Encoder(tokenizer).encode([Document("x", content, 1, 1, "", None)]).examples
    return example.ids.tolist(), example.trained.tolist()


def template(name):
    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text()


def with_tokens_of(source):
    tokenizer = tiny(source)
    tokens = sorted(set(re.findall(r"<\|[A-Za-z_]+\|>|<(?:end|start)_of_turn>", source)) | {"<|eot_id|>"})
    tokenizer.add_special_tokens({"extra_special_tokens": tokens + SPECIALS[2:]})
    return tokenizer


def trained(tokenizer, ids, mask):
    """The runs of trained tokens, as text."""
    text = "".join(tokenizer.decode([token]) if label else "\0" for token, label in zip(ids, mask, strict=True))
    return [run for run in text.split("\0") if run]


@pytest.mark.parametrize("name", ["llama3_training", "gemma3_training"])
def test_assistant_turns_are_masked_as_trl_masks_them(name, model, tmp_path):
    tokenizer = with_tokens_of(template(name))
    ids, mask = theirs(model, tokenizer, {"messages": MESSAGES}, tmp_path, assistant_only_loss=True)
    found_ids, found = ours(tokenizer, Chat(MESSAGES))
    assert found_ids == ids
    assert [text.rstrip("\n") for text in trained(tokenizer, ids, mask)] == trained(tokenizer, found_ids, found)


def test_line_feeds_around_a_turn_are_trained_on_by_trl_alone(model, tmp_path):
    tokenizer = with_tokens_of(template("qwen2_5_training"))
    ids, mask = theirs(model, tokenizer, {"messages": MESSAGES}, tmp_path, assistant_only_loss=True)
    found_ids, found = ours(tokenizer, Chat(MESSAGES))
    assert found_ids == ids
    assert trained(tokenizer, ids, mask) == ["\nworld<|im_end|>\n", "\nthe lazy dog<|im_end|>\n"]
    assert trained(tokenizer, found_ids, found) == ["world<|im_end|>", "the lazy dog<|im_end|>"]


def test_an_empty_thought_that_the_template_made_up_is_trained_on_by_trl_alone(model, tmp_path):
    tokenizer = with_tokens_of(template("qwen3_training"))
    ids, mask = theirs(model, tokenizer, {"messages": MESSAGES}, tmp_path, assistant_only_loss=True)
    found_ids, found = ours(tokenizer, Chat(MESSAGES))
    assert found_ids == ids
    assert trained(tokenizer, ids, mask)[0] == "<think>\n\n</think>\n\nworld<|im_end|>\n"
    assert trained(tokenizer, found_ids, found)[0] == "world<|im_end|>"


def test_the_same_template_without_marks_gives_the_same_mask(model, tmp_path):
    marked = template("llama3_training")
    bare = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", marked)
    assert "generation %}" not in bare.replace("add_generation_prompt %}", "")
    assert ours(with_tokens_of(bare), Chat(MESSAGES)) == ours(with_tokens_of(marked), Chat(MESSAGES))


def test_a_pair_with_a_clean_boundary_is_masked_as_trl_masks_it(model, tmp_path):
    tokenizer = tiny(adds_bos=True)
    # TRL leaves the end of the text to the data; ours is always there.
    example = {"prompt": "what is it:", "completion": " hello</s>"}
    ids, mask = theirs(model, tokenizer, example, tmp_path)
    assert ours(tokenizer, Pair("what is it:", " hello")) == (ids, mask)


def test_with_a_loss_on_prompts_all_tokens_but_the_first_are_trained_on_as_by_trl(model, tmp_path):
    tokenizer = tiny(adds_bos=True)
    example = {"prompt": "what is it:", "completion": " hello</s>"}
    ids, mask = theirs(model, tokenizer, example, tmp_path, completion_only_loss=False)
    (found,) = Encoder(tokenizer).encode([Document("x", Pair("what is it:", " hello"), 1, 1, "", None)]).examples
    whole = with_prompts(found, 1.0)
    # TRL has a label at the first token, which no position predicts.
    assert (whole.ids.tolist(), whole.trained.tolist(), whole.weights) == (ids, [False, *mask[1:]], None)
    assert all(mask)


def test_a_conversational_pair_is_masked_as_trl_masks_it(model, tmp_path):
    tokenizer = with_tokens_of(template("llama3"))
    example = {"prompt": MESSAGES[1:2], "completion": MESSAGES[2:3]}
    ids, mask = theirs(model, tokenizer, example, tmp_path)
    assert ours(tokenizer, Pair("hello", "world")) == (ids, mask)


def test_a_token_across_the_boundary_is_cut_by_us_alone(model, tmp_path):
    tokenizer = tiny(adds_bos=True)
    ids, mask = theirs(model, tokenizer, {"prompt": "what is it: ", "completion": "hello</s>"}, tmp_path)
    found_ids, found = ours(tokenizer, Pair("what is it: ", "hello"))
    prompt = tokenizer("what is it: ")["input_ids"]
    assert found_ids[: len(prompt)] == prompt
    assert ids[: len(prompt)] != prompt
    assert trained(tokenizer, ids, mask) == [" hello</s>"]
    assert trained(tokenizer, found_ids, found) == ["hello</s>"]


def test_grade_school_maths_is_masked_as_trl_masks_it(model, tmp_path, shared_data):
    line = json.loads((shared_data / "gsm8k_train.jsonl").read_text().splitlines()[0])
    turns = [{"role": "user", "content": line["question"]}, {"role": "assistant", "content": line["answer"]}]
    tokenizer = with_tokens_of(template("llama3_training"))
    ids, mask = theirs(model, tokenizer, {"messages": turns}, tmp_path, assistant_only_loss=True)
    assert ours(tokenizer, Chat(turns)) == (ids, mask)
