"""Hostile configs, and the files that settings name: models, tokenizers, templates, lists, schemas."""

import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from tests.support.fasttext_files import Kind, write_model
from tests.support.hostile_files import TEXTS, damaged
from tests.support.train_inline import MODEL

Draw = random.Random

_VALUES: tuple[Any, ...] = (
    *TEXTS.values(), -1, 0, 10**400, 1e308, -0.0, None, True, [], {}, [[]], {"a": {"b": {}}}, [None], ["x"] * 10_000,
    "(a+)+$", "[", "\\", "(?P<a>" * 100, "../../x", "file:///etc/passwd", "s3://", "hf://", "s3://bucket/\x00",
    "~root/x",
    "${NO_SUCH_VARIABLE}", "${", "{{ 7 * 7 }}", "http://[", "http://169.254.169.254/", "nan", "1e999", "2026-99-99",
)  # fmt: skip


def valid_configs(run: Path) -> dict[str, dict[str, Any]]:
    """A config of each kind, with settings of every depth."""
    inputs = [{"source": "a", "path": str(run / "in"), "id": "id", "columns": ["date"], "exclude": ["x*"]}]
    curate = {
        "kind": "curate",
        "inputs": inputs,
        "dedup": {"threshold": 0.7},
        "language": {"keep": ["en"]},
        "rules": {"packs": ["c4"], "c4": {"min_sentences": 1}},
        "personal_data": {"redact": ["email"]},
        "boilerplate": {"max_documents": 2},
        "repeats": {"min_words": 20},
        "execution": {"unit_mib": 1},
    }
    source = {"source": "a", "path": str(run / "in"), "columns": {"prompt": "q", "completion": "a", "label": "l"}}
    prepare = {
        "kind": "prepare",
        "inputs": [
            source,
            {"source": "b", "api": {"url": "https://x.example/a", "headers": {"A": "b"}, "paging": {"by": "page"}}},
            {"source": "c", "pages": {"urls": ["https://x.example/"]}},
        ],
        "split": {"train": 0.8, "validation": 0.1, "test": 0.1, "stratify": ["label"]},
        "clean": {"labels": {"label": {"x": ["y"]}}, "terminology": {"a": "b"}},
        "validate": {"allowed": {"label": ["x"]}, "json_schema": {"type": "object"}},
        "records": {"templates": {"qa": {"prompt": "{text}", "completion": "{title}"}}},
        "assess": {"label": "label"},
    }
    train = {
        "kind": "train",
        "corpus": str(run / "in" / "x.jsonl"),
        "columns": {"text": "text"},
        "steps": 2,
        "method": "lora",
        "model": {"config": MODEL, "tokenizer": "train"},
        "sequence_length": 64,
        "tokens_per_step": 128,
        "optimizer": {"learning_rate": 1e-3},
        "lora": {"rank": 2},
        "evaluate": {"every_steps": 1},
    }
    more = {"name": "hostile", "output": str(run / "out")}
    configs = {"curate": curate | more, "prepare": prepare | more, "train": train | more}
    return json.loads(json.dumps(configs))


def _places(content: Any) -> list[tuple[Any, Any]]:
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [found for key, value in list(pairs) for found in [(content, key), *_places(value)]]


_YAML = {
    "an object of Python": b"kind: !!python/object/apply:os.system ['touch ../../owned']\n",
    "names of names": b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
        b"%c: &%c [%s]\n" % (98 + n, 98 + n, b",".join([b"*%c" % (97 + n)] * 9)) for n in range(9)),
    "a name in itself": b"kind: &a [*a]\n",
    "brackets": b"kind: " + b"[" * 100_000,
    "deep indents": b"".join(b" " * n + b"a:\n" for n in range(1_500)),
    "digits": b"kind: curate\nname: 0x" + b"f" * 10_000,
    "NULs": b"kind: curate\0\n",
    "UTF-16": "kind: curate\n".encode("utf-16"),
    "bytes of no encoding": b"kind: \xff\xfe\xed\xa0\x80\n",
    "two documents": b"kind: curate\n---\nkind: train\n",
    "a key that is a list": b"? [a, b]\n: c\n",
    "merges": b"a: &a {b: c}\nd: {<<: [*a, *a, 5]}\n",
    "a date": b"kind: 2026-11-25\nname: 12:30:45\n",
    "escape sequences": b'kind: "\\e]0;x\\a\\x1b[2J"\n',
    "nothing": b"",
    "a scalar": b"curate\n",
    "a long line": b"kind: " + b"x" * 3_000_000,
    "anchors": b"".join(b"a%d: &a%d x\n" % (n, n) for n in range(20_000)),
}  # fmt: skip


def hostile_config(draw: Draw, run: Path, secret: str) -> tuple[str, str, bytes]:
    """(what, name of the file, its bytes)."""
    kind = draw.choice(["text", "value", "value", "value", "key", "secret"])
    if kind == "text":
        what, content = draw.choice(list(_YAML.items()))
        return what, draw.choice(["config.yaml", "config.yaml", "config.json"]), content
    name, config = draw.choice(list(valid_configs(run).items()))
    # The output is the author's choice, who is trusted.
    holder, key = draw.choice([place for place in _places(config) if place[1] != "output"])
    where = f"{name}: {key}"
    if kind == "key" and isinstance(holder, dict):
        value = draw.choice([one for one in _VALUES if isinstance(one, str)])
        holder[value] = holder.pop(key)
        where += " has another name"
    else:
        value = secret if kind == "secret" else draw.choice(_VALUES)
        holder[key] = value
    shown = "a secret" if kind == "secret" else repr(value)[:40]
    return f"{where}, {shown}", "config.json", json.dumps(config).encode()


_TEMPLATES = {
    "attributes of Python": "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "a function's globals": "{{ cycler.__init__.__globals__.os.popen('touch ../../owned').read() }}",
    "a file": "{% include '/etc/passwd' %}{% import '/etc/passwd' as x %}",
    "a long range": "{% for x in range(99999999) %}{% endfor %}",
    "a long text": "{{ 'x' * 10**9 }}",
    "a power": "{{ 9 ** 9 ** 9 }}",
    "a macro of itself": "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    "half a block": "{% for m in messages %}",
    "brackets": "{{ " + "(" * 5_000 + " }}",
    "another role": "{% for m in messages %}<|im_start|>{{ m.nothing.at.all }}{{ m.content }}{% endfor %}",
    "an exception": "{{ raise_exception('\x1b[2J' ~ messages) }}",
    "padding": "{{ '%999999999d' | format(1) }}{{ 'x' | center(999999999) }}",
}


@cache
def _weights() -> bytes:
    from tests.support.model_folders import shapes_of  # imports torch, which most inputs do without

    return save({name: np.zeros(shape, np.float16) for name, shape in shapes_of(json.dumps(MODEL)).items()})


def hostile_model(draw: Draw, folder: Path) -> str:
    """Write a model as hubs have it, with one part hostile. Returns what."""
    folder.mkdir()
    vocabulary = {f"t{number}": number for number in range(270)} | {"<unk>": 270, "<end>": 271}
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "normalizer": None,
        "post_processor": None,
        "decoder": None,
        "added_tokens": [
            {
                "id": 271,
                "content": "<end>",
                "special": True,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
            }
        ],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    }
    files: dict[str, Any] = {
        "config.json": dict(MODEL),
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<end>",
            "unk_token": "<unk>",
            "chat_template": "{% for m in messages %}{{ m.content }}<end>{% endfor %}",
        },
        "generation_config.json": {"eos_token_id": 271},
    }
    weights = _weights()
    kind = draw.choice(["value", "value", "bytes", "template", "template", "code", "weights", "index"])
    what = kind
    if kind == "value":
        name = draw.choice(list(files))
        copied = json.loads(json.dumps(files[name]))
        places = _places(copied)
        holder, key = draw.choice([place for place in places if not str(place[1]).startswith("t")] or places)
        holder[key] = draw.choice(_VALUES)
        files[name] = copied
        what = f"{name}: {key} is {str(holder[key])[:40]!r}"
    elif kind == "template":
        what, files["tokenizer_config.json"]["chat_template"] = draw.choice(list(_TEMPLATES.items()))
    elif kind == "code":
        files["config.json"] = MODEL | {"auto_map": {"AutoModelForCausalLM": "evil.Model"}, "model_type": "evil"}
        (folder / "evil.py").write_text("open('../../owned', 'w')\n")
    elif kind == "index":
        header = json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
        weight_map = dict.fromkeys(header, "part.safetensors")
        named = draw.choice(["../../x", "../part.safetensors", "/etc/passwd", "\x1b[2J", 7, "x.bin"])
        weight_map[draw.choice([*weight_map, "another"])] = named
        files["model.safetensors.index.json"] = {"metadata": {}, "weight_map": weight_map}
        what = f"weights in {named!r}"
    elif kind == "weights":
        headers = (b"[" * 5_000, b'{"a": {"dtype": "F16", "shape": [9999999999], "data_offsets": [0, 2]}}', b"{}")
        header = draw.choice(headers)
        weights = draw.choice([len(header), 1 << 62, 0]).to_bytes(8, "little") + header + b"\0\0"
        (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    (folder / ("part.safetensors" if kind == "index" else "model.safetensors")).write_bytes(weights)
    if kind == "bytes":
        file = folder / draw.choice([*files, "model.safetensors"])
        damage, content = damaged(draw, file.read_bytes())
        file.write_bytes(content)
        what = f"{file.name}: {damage}"
    return what


def hostile_list(draw: Draw, run: Path) -> tuple[str, str, dict[str, Any]]:
    """(what, kind of config, settings): a model, list or schema that rules read, hostile."""
    file = run / "named"
    what, text = draw.choice(list(TEXTS.items()))
    lines = text.encode("utf-8", "surrogatepass")
    labels = Kind(names=("__label__en", "__label__de"), labels=2)

    def damaged_model() -> str:
        damage, content = damaged(draw, write_model(file, labels).read_bytes())
        file.write_bytes(content)
        return f"a model: {damage}"

    def text_file() -> str:
        file.write_bytes(draw.choice([lines, damaged(draw, lines * 3)[1]]))
        return f"lines: {what}"

    def schema() -> str:
        schemas = {
            "a reference to itself": {"$ref": "#"},
            "a reference elsewhere": {"$ref": "http://127.0.0.1:1/x"},
            "a reference to a file": {"$ref": "file:///etc/passwd"},
            "an expression that is none": {"type": "string", "pattern": "["},
            "a type that is none": {"type": text[:100]},
            "brackets": json.loads("[" * 400 + "]" * 400),
            "a multiple": {"multipleOf": 0},
        }
        found, content = draw.choice(list(schemas.items()))
        file.write_text(json.dumps(content))
        return f"a schema: {found}"

    kinds: tuple[tuple[str, Callable[[], str], dict[str, Any]], ...] = (
        ("curate", damaged_model, {"language": {"model": str(file), "keep": ["en"]}}),
        ("curate", damaged_model, {"rules": {"packs": [], "quality_classifier": {"model": str(file), "label": "en"}}}),
        ("curate", text_file, {"rules": {"packs": [], "bad_words": {"paths": {"en": str(file)}}}}),
        ("curate", text_file, {"rules": {"packs": [], "url_blocklist": {"paths": [str(file)]}}}),
        ("prepare", text_file, {"clean": {"terminology": str(file)}}),
        ("prepare", schema, {"validate": {"json_schema": str(file)}}),
        ("prepare", damaged_model, {"validate": {"inappropriate": {"model": str(file), "label": "en"}}}),
    )
    kind, write, settings = draw.choice(kinds)
    return f"{'.'.join(_first_keys(settings))}: {write()}", kind, settings


def _first_keys(settings: Any) -> list[str]:
    if not isinstance(settings, dict):
        return []
    key = list(settings)[-1] if "packs" in settings else next(iter(settings))
    return [key, *_first_keys(settings[key])]
