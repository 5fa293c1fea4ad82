"""Tokenizers small enough to read their output, and chat templates as models have them, written for tests."""

import pickle
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from raymill.cluster.guard import Guard, WorkBounds, _outcome
from raymill.training.pack import encode

ENGLISH = ["the quick brown fox jumps over the lazy dog", "user assistant system tool hello world what is it"] * 3

# Every turn begins with its role and ends with a token; BOS first. The shape of Llama 3's.
LLAMA_LIKE = (
    "{% for m in messages %}{{ bos_token if loop.first }}<|head|>{{ m.role }}<|/head|>\n\n"
    "{{ m.content | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|head|>assistant<|/head|>\n\n{% endif %}"
)
# Earlier reasoning is dropped, and the last answer gets an empty thought if it has none. The shape of Qwen 3's.
FORGETFUL = (
    "{% for m in messages %}{% set c = m.content %}{% if m.role == 'assistant' %}"
    "{% if loop.last %}{% set c = c if '</think>' in c else '<think>\n\n</think>\n\n' + c %}"
    "{% else %}{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ c }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DOUBLED_BOS = "{{ bos_token }}{{ bos_token }}{% for m in messages %}{{ m.content }}<|eot|>{% endfor %}"
NO_END = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
# The prompt opens a thought which the turn itself does not have. The shape of DeepSeek R1's distillates.
PREFILLED = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}assistant: <think>\n{% endif %}"
)

# The prompt names the assistant in another way than the turn does.
OTHERWISE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}answer of the model: {% endif %}"
)
# Arguments of tool calls are JSON text. The shape of DeepSeek V3's.
CALLING = (
    "{% for m in messages %}{{ m.role + ': ' + m.content }}{% for c in m.tool_calls or [] %}"
    "{{ c.function.name + ' ' + c.function.arguments }}{% endfor %}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)

SPECIALS = ["<s>", "</s>", "<|head|>", "<|/head|>", "<|eot|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]


@cache
def _backend(adds_bos: bool) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(ENGLISH, trainer)
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    return tokenizer.to_str()


def tiny(template: str | dict[str, str] | None = None, *, adds_bos: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 400 entries, as the rest of the world would load it."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_backend(adds_bos)),
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=SPECIALS[2:],
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )


class _InThisProcess(Guard):
    """A guard without its child process, hence without bounds. What would go through the pipes is pickled as well."""

    def map(self, items: Sequence[Any], bounds: Sequence[WorkBounds]) -> list[Any]:
        return [pickle.loads(pickle.dumps(_outcome(self._work, pickle.loads(pickle.dumps(item))))) for item in items]


@lru_cache(maxsize=64)
def encoder_of(tokenizer: PreTrainedTokenizerFast) -> encode.Encoder:
    """The encoder of a tokenizer that does not change any more, for tests of what it makes of documents.

    Hundreds of child processes would be forks of the test process, 0.1 s each. Encoders with theirs are tested in
    test_template_bounds.py, and wherever a corpus is packed.
    """
    with patch.object(encode, "Guard", _InThisProcess):
        return encode.Encoder(tokenizer)


def saved(folder: Path, tokenizer: PreTrainedTokenizerFast) -> str:
    tokenizer.save_pretrained(folder)
    return str(folder)


def shown(tokenizer: PreTrainedTokenizerFast, ids, labels) -> str:
    """The tokens as text, those that are trained on in [brackets]."""
    out, inside = "", False
    runs: list[tuple[bool, list[int]]] = []
    for token, label in zip(ids.tolist(), labels.tolist(), strict=True):
        if not runs or runs[-1][0] != label:
            runs.append((label, []))
        runs[-1][1].append(token)
    for inside, tokens in runs:
        text = tokenizer.decode(tokens)
        out += f"[{text}]" if inside else text
    return out
