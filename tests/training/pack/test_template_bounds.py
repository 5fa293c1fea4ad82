"""Chat templates and expressions of tokenizers come with a model: one without end costs a document, or is refused."""

import ast
import gc
import json
from contextlib import nullcontext
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from raymill.cluster import guard, model_settings
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.guard import WorkBounds
from raymill.cluster.readers.inputs import Limits
from raymill.cluster.store.store import Store
from raymill.training.config_parts import Model
from raymill.training.evaluation import answers, generate
from raymill.training.evaluation.generate import stop_ids
from raymill.training.pack import encode, template
from raymill.training.pack.documents import Chat, Document, Pair
from raymill.training.pack.template import CHATML
from raymill.training.tokenizer.load_tokenizer import load_checked, load_tokenizer
from tests.support.sampled import sampled
from tests.support.tiny_tokenizers import saved, tiny

WHOLE_MAP = model_settings.Guard.map
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
GROWS = "{% set n = namespace(x='a') %}{% for a in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}"


@pytest.mark.parametrize(
    ("program", "reason"), [(LOOPS, "template_too_slow"), (GROWS, "template_too_large")], ids=["loops", "grows"]
)
def test_a_conversation_that_a_template_takes_too_long_for_is_left_out_with_its_reason(monkeypatch, program, reason):
    monkeypatch.setattr(encode, "LIMITS", Limits(document_s=1 if program == LOOPS else 20))
    hostile = "{% if messages[0]['content'] == 'hostile' %}" + program + "{% endif %}"
    encoder = encode.Encoder(tiny(hostile + CHATML))
    chats = [
        Chat([{"role": "user", "content": asked}, {"role": "assistant", "content": "world"}])
        for asked in ("hello", "hostile", "what is it")
    ]
    encoded = encoder.encode([Document(str(n), one, 1, 1, "", None) for n, one in enumerate(chats)])
    assert [one.document for one in encoded.examples] == [0, 2]
    (misfit,) = encoded.misfits
    assert (misfit.document, misfit.reason) == (1, reason) and "over" in misfit.preview
    assert reason in encode.TEMPLATE_REASONS


@pytest.mark.parametrize(
    "program",
    [
        LOOPS,
        GROWS,
        "{% if add_generation_prompt %}" + LOOPS + "{% endif %}",
        "{% if messages[0].role == 'system' %}" + LOOPS + "{% endif %}",
        "{% if messages[-1].role == 'assistant' %}" + LOOPS + "{% endif %}",
        "{% if messages | length == 1 %}{{ raise_exception('no question alone') }}{% endif %}" + LOOPS,
    ],
    ids=[
        "loops",
        "grows",
        "loops for a prompt",
        "loops after a system message",
        "loops for an answer",
        "refuses a question alone",
    ],
)
def test_a_template_that_does_not_end_is_refused_when_the_config_is_checked(tmp_path, monkeypatch, program):
    monkeypatch.setattr(template, "OF_A_CHECK", WorkBounds(1, 512 << 20))
    (tmp_path / "chat.jinja").write_text(program + CHATML)
    model = Model(name=saved(tmp_path / "t", tiny()), chat_template=str(tmp_path / "chat.jinja"))
    with pytest.raises(ConfigError, match=r"chat\.jinja does not end, or grows without end") as refused:
        load_checked(Store(), model, program + CHATML, ())
    assert "over 1 s" in str(refused.value) or "over 512 MiB of memory" in str(refused.value)


def test_a_tokenizer_and_its_template_are_checked_once_and_again_when_they_change(tmp_path, monkeypatch):
    checks = []
    monkeypatch.setattr(guard, "_found_once", {})
    monkeypatch.setattr(model_settings.Guard, "map", lambda *given: checks.append(given) or WHOLE_MAP(*given))

    def load(chat_template: str) -> int:
        checks.clear()
        load_checked(Store(), Model(name=folder), chat_template, ())
        return len(checks)

    folder, changed = saved(tmp_path / "t", tiny()), CHATML + "{# changed #}"
    conversations = len(template.CHECKED)
    assert [load(one) for one in (CHATML, CHATML, changed, changed)] == [1 + conversations, 0, conversations, 0]
    special = tiny()
    special.eos_token = "<|im_end|>"
    folder = saved(tmp_path / "other", special)
    assert load(changed) == 1 + conversations, "other files, and special tokens that a template can write"


def test_a_template_that_ends_when_it_is_checked_and_not_later_does_not_hold_a_worker(monkeypatch):
    for module in (encode, generate):
        monkeypatch.setattr(module, "OF_A_CHECK", WorkBounds(1, 512 << 20))
    later = encode.Encoder(tiny(LOOPS + CHATML))
    assert "<|im_start|>" not in later.special_text.tokens
    assert stop_ids(tiny(LOOPS + CHATML)) == [tiny(None).eos_token_id]


@pytest.mark.parametrize(("program", "said"), [(LOOPS, "over 1 s"), (GROWS, "512 MiB of memory")])
def test_a_prompt_that_the_template_of_a_folder_does_not_end_for_is_an_error(tmp_path, monkeypatch, program, said):
    monkeypatch.setattr(answers, "OF_A_PROMPT", WorkBounds(1 if program == LOOPS else 20, 512 << 20))
    with pytest.raises(DataError, match=rf"chat template or tokenizer fails on a prompt .*{said}"):
        answers.answer_prompts(Store(), saved(tmp_path / "t", tiny(program + CHATML)), ["hello"], 4, chat=True)


# Functions that render a template themselves or by others of these. Whoever else needs one gives it to a Guard.
RENDERING = {
    "render", "written", "marked_renderings", "closing_token", "prompt_ids", "_end_ids", "_end_of",
    "_work", "_next_role_ends_turns", "_next_token", "_marked", "_turn", "_found", "_cut_out", "_thinks_by_default",
    "_require_all_rendered", "_prompt_and_answer",
}  # fmt: skip


def test_every_template_is_rendered_in_a_guard():
    """A function that names one of these outside of `Guard(...)` renders too, and so has to be in the list."""
    root = Path(__file__).parents[3]
    functions = []
    for path in (root / "training").rglob("*.py"):
        module = ".".join(["raymill", *path.relative_to(root).with_suffix("").parts])
        body = ast.parse(path.read_text()).body
        own = [node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        known = {one.name: f"{module}.{one.name}" for one in own}
        for node in body:
            if isinstance(node, ast.ImportFrom):
                known |= {one.name: f"{node.module}.{one.name}" for one in node.names}
        functions += [(node, known) for node in own]
    rendering, before = set[str](), -1
    while len(rendering) != before:
        before = len(rendering)
        for function, known in functions:
            nodes = list(ast.walk(function))
            calls = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == "Guard"]
            guarded = {inner for call in calls for inner in ast.walk(call)}
            for node in nodes:
                renders = isinstance(node, ast.Attribute) and node.attr == "apply_chat_template"
                renders |= isinstance(node, ast.Name) and known.get(node.id) in rendering
                if renders and node not in guarded:
                    rendering.add(known[function.name])
    assert {name.rpartition(".")[2] for name in rendering} == RENDERING


CHARSMAP = (4).to_bytes(4, "little") + b"\0" * 4  # of sentencepiece, with an index of nothing


@pytest.mark.parametrize(
    ("part", "steps", "growth"),
    [
        ("normalizer", [normalizers.Replace("a", "b" * 1000)] * 2, "1,000,000"),
        ("normalizer", [normalizers.Precompiled(CHARSMAP + b"b\0" + b"b" * 20 + b"\0")] * 2, "400"),
        ("normalizer", [normalizers.ByteLevel()] * 30, f"{4**30:,}"),
        ("pre_tokenizer", [pre_tokenizers.ByteLevel()] * 30, f"{4**30:,}"),
        ("decoder", [decoders.Replace("a", "b" * 1000)], "1,000"),
    ],
)
def test_a_tokenizer_with_a_part_that_multiplies_text_is_refused_when_it_is_loaded(tmp_path, part, steps, growth):
    kinds = {"normalizer": normalizers, "pre_tokenizer": pre_tokenizers, "decoder": decoders}
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    setattr(tokenizer, part, kinds[part].Sequence(steps))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=f"its {part} may write {growth} characters for one"):
        load_tokenizer(Store(), str(tmp_path))


ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
TEMPLATE = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}], "pair": [
    {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}]}  # fmt: skip


def replace(text: str | dict, by: str) -> dict:
    return {"type": "Replace", "pattern": text if isinstance(text, dict) else {"String": text}, "content": by}


def with_added_tokens(folder: Path, file: str, tokens: list[str], **parts) -> str:
    """The folder of a tokenizer with other parts, and tokens that are added by tokenizer.json or its settings."""
    saved(folder, tiny())
    path = folder / "tokenizer.json"
    plain = json.loads(path.read_text()) | parts
    added = {400 + number: ADDED | {"content": token} for number, token in enumerate(tokens)}
    if file == "tokenizer.json":
        plain["added_tokens"] += [{"id": id} | token for id, token in added.items()]
    else:
        settings = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(settings | {"added_tokens_decoder": added}))
    path.write_text(json.dumps(plain))
    return str(folder)


def test_a_tokenizer_of_the_hub_is_loaded_from_the_copy_of_its_files(tmp_path, monkeypatch):
    asked = []

    def snapshot_download(name: str, revision: str | None, allow_patterns: list[str], **how) -> str:
        asked.append((name, revision, "*.json" in allow_patterns, "*.safetensors" in allow_patterns))
        return saved(tmp_path / "copy", tiny(CHATML))

    monkeypatch.setattr("raymill.training.model_folder.folder.hub_problem", lambda *asked: None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert load_tokenizer(Store(), "acme/model", "v2").chat_template == CHATML
    assert asked == [("acme/model", "v2", True, False)]
    with_added_tokens(tmp_path / "copy", "tokenizer.json", [], normalizer=replace("v", "v" * 257))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **how: str(tmp_path / "copy"))
    with pytest.raises(ConfigError, match=r"^acme/model: its normalizer may write 257 characters for one"):
        load_tokenizer(Store(), "acme/model")


@pytest.mark.parametrize("file", sampled(["tokenizer.json", "tokenizer_config.json"], 1))
@pytest.mark.parametrize(
    ("normalizer", "token", "bounds"),
    [
        ({"type": "Sequence", "normalizers": [replace("v", "v" * 400)] * 3}, "v", WorkBounds(20, 256 << 20)),
        (replace("v", "v" * 256), "v" * 300_000, WorkBounds(20, 256 << 20)),
        (replace({"Regex": r"(?:a{1,25}){5}$"}, "b"), "a" * 500 + "c", WorkBounds(1, 1 << 30)),
    ],
    ids=["grows", "grows by what is allowed", "slow"],
)
def test_a_tokenizer_whose_normalizer_makes_too_much_of_an_added_token_is_refused_before_it_is_loaded(
    tmp_path, monkeypatch, capfd, normalizer, token, bounds, file
):
    """tokenizers applies the normalizer to added tokens while it loads them."""
    monkeypatch.setattr(model_settings, "LOADING", bounds)
    folder = with_added_tokens(tmp_path, file, [token], normalizer=normalizer)
    with pytest.raises(ConfigError, match=rf"^{folder}: the tokenizer cannot be loaded within its bounds \("):
        load_tokenizer(Store(), folder)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"post_processor": TEMPLATE | {"special_tokens": {"a": {"id": "a", "ids": [2**32 - 1], "tokens": ["a"]}}}},
         "has the token id 4,294,967,295; ids go up to 2,147,483,647"),
        ({"post_processor": TEMPLATE | {"single": [{"SpecialToken": {"id": "a", "type_id": 0}}] * 13,
                                        "special_tokens": {"a": {"id": "a", "ids": [1] * 5, "tokens": ["a"] * 5}}}},
         "its post_processor adds 65 tokens to each text"),
        ({"model": {"type": "BPE", "dropout": 0.5, "vocab": {"a": 0}, "merges": []}},
         r'leaves out merges at random \(dropout 0.5\).* Set "dropout" to null'),
    ],
)  # fmt: skip
def test_a_tokenizer_that_adds_many_tokens_or_ids_beyond_int32_or_merges_at_random_is_refused(tmp_path, part, said):
    folder = with_added_tokens(tmp_path, "tokenizer.json", [], **part)
    with pytest.raises(ConfigError, match=f"^{folder}: {said}"):
        load_tokenizer(Store(), folder)


@pytest.mark.parametrize(
    ("tokens", "parts", "longest"),
    [
        (["<" + "a" * 9_999], {}, "10,000"),
        (["<" + "a" * 10_000], {}, "10,001"),
        ([], {"model": {"type": "BPE", "vocab": {"a": 0, "a" * 10_001: 1}, "merges": []}}, "10,001"),
        ([], {"model": {"type": "Unigram", "vocab": [["a", 0.0], ["a" * 10_001, 0.0]], "unk_id": 0}}, "10,001"),
        (["<" + "a" * 99], {"decoder": replace("a", "a" * 200)}, "20,000"),
    ],
)
def test_a_tokenizer_with_a_token_of_megabytes_is_refused(tmp_path, tokens, parts, longest):
    """An answer of 200 such tokens would be gigabytes of text."""
    parts |= {"decoder": None} if "decoder" not in parts else {}
    folder = with_added_tokens(tmp_path, "tokenizer.json", tokens, normalizer=None, **parts)
    said = f"has a token that stands for {longest} characters"
    with pytest.raises(ConfigError, match=said) if longest != "10,000" else nullcontext():
        load_tokenizer(Store(), folder)


def test_a_tokenizer_with_tens_of_thousands_of_added_tokens_is_refused(tmp_path, monkeypatch):
    """25 MB of them took minutes and gigabytes in every process."""
    monkeypatch.setattr(model_settings, "_MOST_BESIDE", 50)
    for count, is_refused in ((40, False), (60, True)):
        (tmp_path / str(count)).mkdir()
        folder = with_added_tokens(tmp_path / str(count), "tokenizer.json", [f"<{number}>" for number in range(count)])
        with pytest.raises(ConfigError, match="added tokens, over 50, which") if is_refused else nullcontext():
            load_tokenizer(Store(), folder)


SLOW = r"(?:a{1,25}){5}$|b"  # for each beginning in a run of one letter, some million ways to fail
PANICS = "(a+)+$"  # more ways than Oniguruma tries


@pytest.mark.parametrize("is_pair", [False, True])
@pytest.mark.parametrize(
    ("expression", "reason"), [(SLOW, "tokenizer_too_slow"), (PANICS, "tokenizer_error")], ids=["slow", "panics"]
)
def test_a_text_that_an_expression_of_the_tokenizer_takes_too_long_for_is_left_out(
    monkeypatch, capfd, expression, reason, is_pair
):
    monkeypatch.setattr(encode, "LIMITS", Limits(document_s=1 if expression == SLOW else 10))
    tokenizer = tiny(None)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(expression), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    texts = ["hello world", "a" * 3_000 + "c", "what is it"]
    contents = [Pair("the fox", text) if is_pair else text for text in texts]
    encoder = encode.Encoder(tokenizer)
    encoded = encoder.encode([Document(str(n), one, 1, 1, "", None) for n, one in enumerate(contents)])
    assert [one.document for one in encoded.examples] == [0, 2]
    (misfit,) = encoded.misfits
    assert (misfit.document, misfit.reason) == (1, reason)
    assert reason in encode.TEMPLATE_REASONS


def test_the_process_of_an_encoder_ends_with_it():
    """Not only at a later garbage collection: a process that packs many corpora would keep memory for each."""
    gc.disable()
    try:
        encoder = encode.Encoder(tiny(None))
        encoder.encode([Document("a", "what is it", 1, 1, "", None)])
        encoder.encode([Document("b", Pair("the fox", "hello"), 1, 1, "", None)])
        process = Path(f"/proc/{encoder._child._child._pid}")
        assert process.exists()
        del encoder
        assert not process.exists()
    finally:
        gc.enable()


def test_a_tokenizer_whose_decoder_has_an_expression_is_refused_when_it_is_loaded(tmp_path):
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    tokenizer.decoder = decoders.Sequence([decoders.Replace(Regex("(a+)+$"), "b")])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="its decoder has a regular expression"):
        load_tokenizer(Store(), str(tmp_path))


def test_a_tokenizer_with_ordinary_parts_is_loaded(tmp_path):
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Precompiled(CHARSMAP + b"b" * 18 + b"\0"),
            normalizers.Prepend("▁"),
            normalizers.Replace(" ", "▁"),
            normalizers.Replace("…", "..."),
        ]
    )
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path)
    load_tokenizer(Store(), str(tmp_path))
