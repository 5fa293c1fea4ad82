"""How to load what was exported, as code for the model card. A test runs every line of it."""

from dataclasses import dataclass

from cluster.store import paths
from training.export.markdown import literal

FOLDERS = ("full", "adapter", "merged", "base", "probe")


@dataclass(frozen=True)
class Base:
    """What an adapter or a probe needs beside itself: a folder, a URI, or a hub's name at a revision.

    shown: what the card's code says instead, as seen from the folder it lies in.
    """

    name: str
    revision: str | None = None
    shown: str | None = None


def loading(folder: str, base: Base, chat: bool) -> list[str]:
    """Lines that load the model and tokenizer of the folder they are run in, and use them.

    Args:
        folder: one of FOLDERS. chat: the tokenizer has a chat template and the model was trained with it.
    """
    if folder == "probe":
        return _probe(base)
    start = [
        *(["from peft import PeftModel"] if folder == "adapter" else []),
        "from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig",
        "",
        'folder = "."  # where this card lies',
    ]
    if folder == "adapter":
        load = [
            *_load_base("AutoModelForCausalLM", base),
            "model = PeftModel.from_pretrained(base, folder).eval()",
        ]
    else:
        load = ["model = AutoModelForCausalLM.from_pretrained(folder).eval()"]
    return [*start, *load, "tokenizer = AutoTokenizer.from_pretrained(folder)", "", *(_ask() if chat else _go_on())]


def _load_base(kind: str, base: Base) -> list[str]:
    """A URI is not loaded as it is: the code names a copy of it in the working directory."""
    name, revision = base.shown or base.name, f", revision={literal(base.revision)}" if base.revision else ""
    note = []
    if paths.is_remote(name):
        note = [f"# A copy of {literal(name)} on this machine."]
        name = name.rstrip("/").rpartition("/")[2]
    return [*note, f"base = {kind}.from_pretrained({literal(name)}{revision}).eval()"]


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
    """The folder's own settings of generation: an adapter's base has others, which may not stop where it learnt to."""
    return [
        "settings = GenerationConfig.from_pretrained(folder, max_new_tokens=64, do_sample=False)",
        "output = model.generate(**inputs, generation_config=settings)",
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
        *_load_base("AutoModel", base),
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        "",
        "# As in training: the text, then the token that ends it.",
        'ids = tokenizer("Some text")["input_ids"]',
        "ids = ids if ids[-1] == tokenizer.eos_token_id else [*ids, tokenizer.eos_token_id]",
        "with torch.no_grad():",
        "    states = base(torch.tensor([ids])).last_hidden_state[0].float()",
        '    pooled = states[-1] if probe["pool"] == "last" else states.mean(0)',
        '    scores = head["weight"] @ pooled + head.get("bias", torch.zeros(len(probe["labels"])))',
        'print(probe["labels"][int(scores.argmax())])',
    ]
