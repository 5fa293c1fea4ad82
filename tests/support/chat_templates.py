"""Chat templates of real models, and conversations of the shapes that data sets have."""

import re
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from raymill.training.pack.documents import Chat
from raymill.training.pack.template import Unfit, presentations, render
from tests.support.tiny_tokenizers import SPECIALS, tiny

# Tokens with a name of their own in a template: <|im_end|>, <｜User｜>, <turn|>, <end_of_turn>, [gMASK], </think>.
_TOKEN = re.compile(r"<\|?[A-Za-z_]+\|?>|<｜[^｜]+｜>|\[g?[A-Z_]{3,}\]|</?[a-z_]+>")
_MARKUP = re.compile(r"</?(?:function|parameter|name|type|description|parameters|required|enum|important|tools)>", re.I)


def template_files() -> dict[str, Path]:
    """The chat templates of the trl wheel, by name; empty where it is not installed."""
    spec = find_spec("trl")
    folder = Path(str(spec.origin)).parent / "chat_templates" if spec else Path("absent")
    return {path.stem: path for path in sorted(folder.glob("*.jinja"))}


@cache
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    """A tiny tokenizer with a template of the trl wheel and the tokens that it names.

    Its end token is the one that ends a conversation of the template, as of the models' own tokenizers.
    """
    source = template_files()[name].read_text()
    tokenizer = tiny(source)
    named = sorted({token for token in _TOKEN.findall(source) if not _MARKUP.fullmatch(token)} | {"<|eot_id|>"})
    tokenizer.add_special_tokens({"extra_special_tokens": [*dict.fromkeys([*named, *SPECIALS[2:]])]})
    said = Chat([{"role": "user", "content": "hello"}, {"role": "assistant", "content": "world"}])
    written = ""
    for shown in presentations(source, said):
        with suppress(Unfit):
            written = written if "world" in written else render(tokenizer, shown, 2, prompt=False).rstrip()
    tokenizer.eos_token = next((token for token in named if written.endswith(token)), tokenizer.eos_token)
    return tokenizer


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Weather of a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "the city"}},
                "required": ["city"],
            },
        },
    }
]


def user(content: str) -> dict:
    """A message of the user."""
    return {"role": "user", "content": content}


def assistant(content: str, **more: object) -> dict:
    """A message of the assistant. more: other keys, such as `tool_calls`."""
    return {"role": "assistant", "content": content} | more


def call(city: str, number: int = 1) -> dict:
    """A call of the tool in TOOLS. number: of the calls of one message."""
    return {"id": f"call0000{number}", "type": "function", "function": {"name": "weather", "arguments": {"city": city}}}


def result(content: str, number: int = 1) -> dict:
    """What a call returned."""
    return {"role": "tool", "name": "weather", "tool_call_id": f"call0000{number}", "content": content}
