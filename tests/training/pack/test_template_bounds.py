"""Chat templates and expressions of tokenizers come with a model: one without end costs a document, or is refused."""

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from raymill.cluster.errors import ConfigError
from raymill.cluster.guard import WorkBounds
from raymill.cluster.readers.inputs import Limits
from raymill.cluster.store.store import Store
from raymill.training.config_parts import Model
from raymill.training.pack import encode, template
from raymill.training.pack.documents import Chat, Document, Pair
from raymill.training.pack.template import CHATML
from raymill.training.tokenizer.load_tokenizer import load_checked, load_tokenizer
from tests.support.tiny_tokenizers import saved, tiny

LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
GROWS = "{% set n = namespace(x='a') %}{% for a in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}"


@pytest.mark.parametrize(
    ("program", "reason"), [(LOOPS, "template_too_slow"), (GROWS, "template_too_large")], ids=["loops", "grows"]
)
def test_a_conversation_that_a_template_takes_too_long_for_is_left_out_with_its_reason(monkeypatch, program, reason):
    monkeypatch.setattr(encode, "LIMITS", Limits(document_s=0.3 if program == LOOPS else 20))
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
    ],
    ids=["loops", "grows", "loops for a prompt", "loops after a system message", "loops for an answer"],
)
def test_a_template_that_does_not_end_is_refused_when_the_config_is_checked(tmp_path, monkeypatch, program):
    monkeypatch.setattr(template, "OF_A_CHECK", WorkBounds(0.3, 512 << 20))
    (tmp_path / "chat.jinja").write_text(program + CHATML)
    model = Model(name=saved(tmp_path / "t", tiny()), chat_template=str(tmp_path / "chat.jinja"))
    with pytest.raises(ConfigError, match=r"chat\.jinja does not end, or grows without end") as refused:
        load_checked(Store(), model, program + CHATML, ())
    assert "over 0.3 s" in str(refused.value) or "over 512 MiB of memory" in str(refused.value)


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


SLOW = r"(?:a{1,25}){5}$|b"  # for each beginning in a run of one letter, some million ways to fail
PANICS = "(a+)+$"  # more ways than Oniguruma tries


@pytest.mark.parametrize("is_pair", [False, True])
@pytest.mark.parametrize(
    ("expression", "reason"), [(SLOW, "tokenizer_too_slow"), (PANICS, "tokenizer_error")], ids=["slow", "panics"]
)
def test_a_text_that_an_expression_of_the_tokenizer_takes_too_long_for_is_left_out(
    monkeypatch, capfd, expression, reason, is_pair
):
    monkeypatch.setattr(encode, "LIMITS", Limits(document_s=0.3 if expression == SLOW else 10))
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
