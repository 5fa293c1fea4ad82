"""Settings of a tokenizer that name files outside of its folder: no such file is read."""

import ast
import json
from pathlib import Path

import pytest
import transformers

from raymill.cluster.model_settings import without_file_arguments
from raymill.cluster.store.store import Store
from raymill.training.tokenizer.load_tokenizer import load_tokenizer
from tests.support.tiny_tokenizers import saved, tiny

SECRETS = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", "AKIA-a-line-of-a-secret-file"]
BYTES = {"vocab.json": '{"own": 0}', "merges.txt": ""}


@pytest.fixture
def outside(tmp_path) -> Path:
    """A folder with a text, a vocabulary and a tokenizer of the user, of which each has the line of the secret."""
    folder = tmp_path / "outside"
    saved(folder, tiny())
    (folder / "lines.txt").write_text("\n".join(SECRETS))
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(SECRETS)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    path = folder / "tokenizer.json"
    plain = json.loads(path.read_text())
    plain["added_tokens"].append(plain["added_tokens"][0] | {"id": 9999, "content": SECRETS[-1]})
    path.write_text(json.dumps(plain))
    path.with_name("tokenizer.4.0.0.json").write_text(json.dumps(plain))
    return folder


@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize(
    ("kind", "own", "named"),
    [
        ("BertTokenizer", {"vocab.txt": "[UNK]\nown"}, {"vocab": "lines.txt"}),
        ("BertTokenizer", {"vocab.txt": "[UNK]\nown"}, {"vocab_file": "lines.txt"}),
        ("BertTokenizer", {"vocab.txt": "[UNK]\nown"}, {"init_inputs": ["lines.txt"]}),
        ("GPT2Tokenizer", BYTES, {"vocab": "vocab.json", "merges": "merges.txt"}),
        ("GPT2Tokenizer", BYTES, {"vocab": "vocab.json"}),
        ("PreTrainedTokenizerFast", {}, {"tokenizer_file": "tokenizer.json"}),
        ("PreTrainedTokenizerFast", {}, {"fast_tokenizer_files": ["tokenizer.4.0.0.json"]}),
    ],
)  # fmt: skip
def test_no_file_that_settings_of_a_tokenizer_name_outside_of_its_folder_is_read(
    tmp_path, outside, file, kind, own, named
):
    folder = tmp_path / "own"
    saved(folder, tiny())
    if own:
        (folder / "tokenizer.json").unlink()
    for name, text in own.items():
        (folder / name).write_text(text)

    def there(name: str | list[str]) -> str | list[str]:
        return [there(one) for one in name] if isinstance(name, list) else str(outside / name)

    tokens = {"unk_token": "[UNK]", "eos_token": "[SEP]"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind, **tokens}))
    settings = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    (folder / file).write_text(json.dumps(settings | {key: there(name) for key, name in named.items()}))
    loaded = load_tokenizer(Store(), str(folder))
    assert SECRETS[-1] not in loaded.get_vocab()
    assert not own or "own" in loaded.get_vocab()


def test_arguments_of_every_tokenizer_that_may_be_a_file_are_removed():
    """The names of arguments that transformers' classes open, or that are named as files are."""
    known = set()
    for path in Path(transformers.__file__).parent.glob("models/*/tokenization_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                known |= {one.arg for one in node.args.args + node.args.kwonlyargs}
    files = {name for name in known if any(part in name.split("_") for part in ("file", "path", "dir", "vocab", "spm"))}
    files -= {"_spm_precompiled_charsmap"}  # its content
    assert {"vocab", "vocab_file", "merges_file", "emoji_file", "sudachi_config_path", "source_spm"} <= files
    plain = dict.fromkeys(files, "/etc/passwd") | {"do_lower_case": True, "eos_token": "</s>", "model_max_length": 9}
    kept = json.loads(without_file_arguments("tokenizer_config.json", json.dumps(plain).encode()))
    assert kept == {"do_lower_case": True, "eos_token": "</s>", "model_max_length": 9}


def test_settings_without_names_of_files_stay_as_they_are():
    plain = {"eos_token": "</s>", "additional_special_tokens": ["a"], "fast_tokenizer_files": ["tokenizer.4.0.0.json"]}
    data = json.dumps(plain, indent=3).encode()
    assert without_file_arguments("tokenizer_config.json", data) == data
    assert without_file_arguments("vocab.json", b'{"vocab": "a"}') == b'{"vocab": "a"}'
    for odd in (b"[", b"[1]", b'{"a":' * 100_000):
        assert without_file_arguments("tokenizer_config.json", odd) == odd
