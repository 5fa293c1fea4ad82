"""How to load what was exported, as code for the model card. A test runs every line of it."""

from dataclasses import dataclass

from training.export.markdown import literal

FOLDERS = ("full", "adapter", "merged", "base", "probe")


@dataclass(frozen=True)
class Base:
    """What an adapter or a probe needs beside itself: a name that `from_pretrained` takes, seen from the folder."""

    name: str
    revision: str | None = None


def loading(folder: str, base: Base, chat: bool) -> list[str]:
    """Lines that load the model and tokenizer of the folder they are run in, and use them.

    Args:
        folder: one of FOLDERS. chat: the tokenizer has a chat template and the model was trained with it.
    """
    if folder == "probe":
        return _probe(base)
    start = [
        *(["from peft import PeftModel"] if folder == "adapter" else []),
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'folder = "."  # where this card lies',
    ]
    if folder == "adapter":
        load = [
            f"base = AutoModelForCausalLM.from_pretrained({_arguments(base)})",
            "model = PeftModel.from_pretrained(base, folder).eval()",
        ]
    else:
        load = ["model = AutoModelForCausalLM.from_pretrained(folder).eval()"]
    return [*start, *load, "tokenizer = AutoTokenizer.from_pretrained(folder)", "", *(_ask() if chat else _go_on())]


def _arguments(base: Base) -> str:
    return literal(base.name) + (f", revision={literal(base.revision)}" if base.revision else "")


def _ask() -> list[str]:
    return [
        'messages = [{"role": "user", "content": "What is 6 times 7?"}]',
        "prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)",
        'inputs = tokenizer(prompt, add_special_tokens=False, return_token_type_ids=False, return_tensors="pt")',
        *_generate(),
    ]


def _go_on() -> list[str]:
    return ['inputs = tokenizer("Once", return_token_type_ids=False, return_tensors="pt")', *_generate()]


def _generate() -> list[str]:
    return [
        "output = model.generate(**inputs, max_new_tokens=64, do_sample=False)",
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
    ]


def _probe(base: Base) -> list[str]:
    return [
        "import json",
        "from pathlib import Path",
        "",
        "import torch",
        "from safetensors.torch import load_file",
        "from transformers import AutoModel, AutoTokenizer",
        "",
        'folder = Path(".")  # where this card lies',
        'probe = json.loads((folder / "probe.json").read_text())',
        'head = load_file(folder / "head.safetensors")',
        f"base = AutoModel.from_pretrained({_arguments(base)}).eval()",
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        "",
        'inputs = tokenizer("Some text", return_token_type_ids=False, return_tensors="pt")',
        "with torch.no_grad():",
        "    states = base(**inputs).last_hidden_state[0].float()",
        '    pooled = states[-1] if probe["pool"] == "last" else states.mean(0)',
        '    scores = head["weight"] @ pooled + head.get("bias", torch.zeros(len(probe["labels"])))',
        'print(probe["labels"][int(scores.argmax())])',
    ]
