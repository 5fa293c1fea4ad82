"""A model folder answers requests as an endpoint does."""

import asyncio
import json
import shutil
import time
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from raymill.cluster.errors import DataError
from raymill.cluster.guard import WorkBounds
from raymill.cluster.store.store import Store
from raymill.training.evaluation import answering
from raymill.training.evaluation.answering import ModelFolder, loaded
from raymill.training.evaluation.answers import answer_prompts
from raymill.training.model_folder.folder import located_with_fingerprint
from raymill.training.pack import template, text_time
from raymill.training.pack.template import CHATML
from tests.support.generate_inline import generate_inline, rows
from tests.support.model_folders import chat_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return chat_model(tmp_path_factory.mktemp("model"), 1)


@pytest.fixture(scope="module")
def model(folder):
    return ModelFolder(Store(), folder)


def request(text="Hello there.", **changes):
    body = {"model": "m", "messages": [{"role": "user", "content": text}], "temperature": 0.7, "top_p": 0.9}
    return json.dumps(body | {"max_tokens": 12, "seed": 5} | changes)


def test_an_answer_has_text_counts_and_an_end(model):
    reply = asyncio.run(model.send(request()))
    assert reply.outcome == "answered" and reply.content and reply.finish in ("stop", "length")
    assert reply.tokens.input > 5 and 1 <= reply.tokens.output <= 12 and reply.seconds > 0
    assert json.loads(reply.body)["usage"]["completion_tokens"] == reply.tokens.output


def test_an_answer_depends_on_its_request_and_seed_alone(model):
    async def together():
        return await asyncio.gather(*(model.send(request(f"Text {number}.", seed=number)) for number in range(4)))

    alone = [asyncio.run(model.send(request(f"Text {number}.", seed=number))).content for number in reversed(range(4))]
    assert [one.content for one in asyncio.run(together())] == alone[::-1]
    assert asyncio.run(model.send(request("Text 1.", seed=2))).content != alone[2]
    greedy = {asyncio.run(model.send(request("Text 1.", seed=seed, temperature=0))).content for seed in range(3)}
    assert len(greedy) == 1


def test_the_seconds_of_an_answer_do_not_include_the_wait_for_others(model):
    async def together():
        return await asyncio.gather(*(model.send(request(f"Text {number}.")) for number in range(8)))

    started = time.monotonic()
    replies = asyncio.run(together())
    # One is computed after the other, so their seconds add up to the time of all.
    assert 0 < sum(one.seconds for one in replies) <= time.monotonic() - started


def test_a_prompt_that_leaves_no_room_is_refused_with_its_length(model):
    reply = asyncio.run(model.send(request("word " * 2000)))
    assert reply.outcome == "refused" and "tokens; the model takes 256 with the answer" in reply.reason


def test_the_folder_is_loaded_once(folder):
    opened = loaded(Store(), folder)

    async def twice():
        async with opened() as one:
            pass
        async with opened() as other:
            return one is other

    assert asyncio.run(twice())


def test_a_generation_from_a_model_folder(folder, tmp_path, monkeypatch):
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps({"text": f"Seed number {n}."}) + "\n" for n in range(5)))
    settings = {
        "inputs": [str(tmp_path / "seeds.jsonl")], "model": {"path": folder}, "make": {"template": "Say: {{ text }}"},
        "sampling": {"max_tokens": 8}, "dedup": None, "output": str(tmp_path / "out"),
    }  # fmt: skip
    run = generate_inline(settings, monkeypatch)
    assert run.report["requests"] == run.report["tries"] == 5 and run.report["tokens"]["output"] > 0
    reasons = {one["reason"]: one["count"] for one in run.report["removed"]}
    assert len(rows(run, "records")) + sum(reasons.values()) == 5 and {*reasons} <= {"truncated", "empty"}


def test_a_folder_is_known_by_its_weights_and_not_by_its_path(folder, tmp_path, monkeypatch):
    (tmp_path / "seeds.jsonl").write_text(json.dumps({"text": "A seed."}) + "\n")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, "copied")
    settings = {
        "inputs": ["seeds.jsonl"], "make": {"template": "Say: {{ text }}"}, "sampling": {"max_tokens": 8},
        "answers": "answers",
    }  # fmt: skip

    def tries(name, path):
        return generate_inline(settings | {"output": name, "model": {"path": path}}, monkeypatch).report["tries"]

    assert [tries("a", folder), tries("b", "copied")] == [1, 0]
    weights = load_file("copied/model.safetensors")
    save_file({name: one + 1 for name, one in weights.items()}, "copied/model.safetensors", {"format": "pt"})
    assert tries("c", "copied") == 1, "trained further, it is another model"


@pytest.mark.parametrize("kind", ["whole", "adapter"])
def test_a_folder_is_known_by_all_that_decides_its_answers(folder, tmp_path, kind):
    """Else the answers of before would be found after the template was corrected."""
    place = tmp_path / "model"
    if kind == "whole":
        shutil.copytree(folder, place)
    else:
        get_peft_model(AutoModelForCausalLM.from_pretrained(folder), LoraConfig(task_type="CAUSAL_LM")).save_pretrained(
            place
        )
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(Path(folder, name), place)
    seen = {located_with_fingerprint(Store(), str(place))[1]}
    (place / "README.md").write_text("Not read by any model.")
    assert located_with_fingerprint(Store(), str(place))[1] in seen
    for name in ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json"):
        (place / name).write_text((place / name).read_text() + "\n")
        seen.add(located_with_fingerprint(Store(), str(place))[1])
    (place / "additional_chat_templates").mkdir()
    (place / "additional_chat_templates/tool.jinja").write_text("x")
    assert len({*seen, located_with_fingerprint(Store(), str(place))[1]}) == 5


def changed(folder, tmp_path, jinja=CHATML, tokens=None):
    """The folder with another template, or with fewer tokens in the model."""
    path = tmp_path / "changed"
    shutil.copytree(folder, path)
    (path / "chat_template.jinja").write_text(jinja)
    if tokens is not None:
        config = LlamaConfig.from_pretrained(path, vocab_size=tokens)
        LlamaForCausalLM(config).save_pretrained(path)
    return str(path)


@pytest.mark.parametrize(
    ("template", "tokens", "seen"),
    [("{# nothing #}", None, "makes nothing of the prompt"), (CHATML, 20, "and the model has 20 tokens")],
)
def test_a_prompt_that_the_model_cannot_take_is_refused(folder, tmp_path, template, tokens, seen):
    path = changed(folder, tmp_path, template, tokens)
    reply = asyncio.run(ModelFolder(Store(), path).send(request()))
    assert reply.outcome == "refused" and seen in reply.reason
    with pytest.raises(DataError, match=seen):
        answer_prompts(Store(), path, ["Hello"], 3, chat=True)


LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def test_a_template_that_does_not_end_is_refused_when_the_model_is_loaded(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(answering, "load_base", None)
    monkeypatch.setattr(template, "OF_A_CHECK", WorkBounds(1, 512 << 20))
    with pytest.raises(DataError, match=r"goes beyond its bounds on a conversation of a few words \(too_slow"):
        ModelFolder(Store(), changed(folder, tmp_path, "{% if messages | length == 3 %}" + LOOP + "{% endif %}"))


@pytest.mark.parametrize(("times", "seconds"), [(99999, 1.0), (6, 0.3)], ids=["beyond its bound", "below it"])
def test_a_template_that_takes_long_for_many_prompts_is_refused(folder, tmp_path, monkeypatch, times, seconds):
    """Its bound on each, or nearly as much: a thousand items would take hours."""
    monkeypatch.setattr(answering, "OF_A_PROMPT", WorkBounds(0.2, 1 << 30))
    monkeypatch.setattr(text_time, "_SECONDS", seconds)
    monkeypatch.setattr(text_time, "_PER_TEXT", 0.01)
    loop = "{% if messages[0].content[:4] == 'Slow' %}" + LOOP.replace("99999", str(times), 1) + "{% endif %}" + CHATML
    model = ModelFolder(Store(), changed(folder, tmp_path, loop))
    outcomes = []

    def send(text):
        outcomes.append(asyncio.run(model.send(request(text))).outcome)

    said = r"changed: its chat template .* its bounds on \d+ texts \(\d s for [\d,]+ bytes"
    with pytest.raises(DataError, match=said):
        for _ in range(100):
            send("Hello.")
            send("Slow.")
            model.log_likelihood([{"role": "user", "content": "Slow."}], "yes")
    assert len(outcomes) >= 3 and set(outcomes[::2]) == {"answered"}
    assert set(outcomes[1::2]) == {"refused" if times == 99999 else "answered"}


def test_a_model_that_answers_in_time_is_never_refused(folder, monkeypatch):
    monkeypatch.setattr(text_time, "_SECONDS", 0)
    model = ModelFolder(Store(), str(folder))
    for _ in range(20):
        assert asyncio.run(model.send(request("Hello."))).outcome == "answered"
