"""Code for the model card that loads an exported folder. A test runs every line of it."""

from dataclasses import dataclass

from cluster.store import paths

FOLDERS = ("full", "adapter", "merged", "base", "probe")


@dataclass(frozen=True)
class Base:
    """The base model of an adapter or a probe: a folder, a URI, or a hub name with a revision.

    shown: the path that the card's code has instead of `name`, relative to the card's folder.
    """

    name: str
    revision: str | None = None
    shown: str | None = None


def loading(folder: str, base: Base, chat: bool) -> list[str]:
    """Lines of Python that load the model and tokenizer of the current folder and run them once.

    Args:
        folder: one of FOLDERS. chat: whether the model was trained with the tokenizer's chat template.
    """
    if folder == "probe":
        return _probe(base)
    start = [
        *(["from peft import PeftModel"] if folder == "adapter" else []),
        "from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig",
        "",
        'folder = "."  # the folder of this card',
    ]
    if folder == "adapter":
        load = [
            *_load_base("AutoModelForCausalLM", base),
            "model = PeftModel.from_pretrained(base, folder).eval()",
        ]
    else:
        load = ["model = AutoModelForCausalLM.from_pretrained(folder).eval()"]
    return [
        *start,
        *load,
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        "",
        *(_chat() if chat else _continue_text()),
    ]


def _load_base(kind: str, base: Base) -> list[str]:
    """Lines that load the base. A URI cannot be loaded, so the code names a copy of it in the working directory."""
    name, revision = base.shown or base.name, f", revision={literal(base.revision)}" if base.revision else ""
    note = []
    if paths.is_remote(name):
        note = [f"# A copy of {literal(name)} on this machine."]
        name = name.rstrip("/").rpartition("/")[2]
    return [*note, f"base = {kind}.from_pretrained({literal(name)}{revision}).eval()"]


def _chat() -> list[str]:
    return [
        'messages = [{"role": "user", "content": "What is 6 times 7?"}]',
        "prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)",
        'inputs = tokenizer(prompt, add_special_tokens=False, return_token_type_ids=False, return_tensors="pt")',
        *_generate(),
    ]


def _continue_text() -> list[str]:
    return ['inputs = tokenizer("Once", return_token_type_ids=False, return_tensors="pt")', *_generate()]


def _generate() -> list[str]:
    """Lines that generate with the settings of this folder; those of an adapter's base may have other stop tokens."""
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
        'folder = Path(".")  # the folder of this card',
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


def literal(value: str) -> str:
    """A Python literal of a text without line ends and backticks, so that it is safe in a fenced code block."""
    escaped = ascii(value).replace("`", "\\x60")
    # `ascii` prefers apostrophes; the generated code uses double quotes.
    return f'"{escaped[1:-1]}"' if escaped[0] == "'" and '"' not in escaped else escaped
