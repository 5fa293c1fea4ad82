"""Conversations under the chat templates of real models, those of the trl wheel; trained text is in brackets."""

import itertools
import json
import random

import pytest

from raymill.cluster.errors import ConfigError
from raymill.cluster.store.store import Store
from raymill.training.config_parts import Columns, Corpus, Model
from raymill.training.evaluation.generate import stop_ids
from raymill.training.model_folder.checks import check_tokenizer
from raymill.training.pack.chat import NOT_TRAINED
from raymill.training.pack.corpus import freeze_corpus
from raymill.training.pack.documents import Chat, Document, LeftOut, documents_of
from raymill.training.pack.template import CHATML, with_defaults
from raymill.training.tokenizer.load_tokenizer import fingerprint_checked, load_checked, load_tokenizer, write_tokenizer
from tests.support.chat_templates import TOOLS, assistant, call, result, template_files, tokenizer_of, user
from tests.support.tiny_tokenizers import CALLING, encoder_of, saved, shown, tiny

TEMPLATES = sorted(template_files())
needs_trl = pytest.mark.skipif(not TEMPLATES, reason="the trl wheel, which has the templates, is not installed")


def encode(tokenizer, *messages, tools=None):
    return encoder_of(tokenizer).encode([Document("x", Chat(list(messages), tools), 1, 1, "", None)])


def masks(tokenizer, *messages, tools=None):
    return [shown(tokenizer, one.ids, one.trained) for one in encode(tokenizer, *messages, tools=tools).examples]


def not_trained(encoded):
    return {
        name.removeprefix(NOT_TRAINED): count for name, count in encoded.notes.items() if name.startswith(NOT_TRAINED)
    }


@pytest.fixture(scope="module", params=TEMPLATES)
def each_template(request) -> str:
    """The name of a template. The scope puts all tests of one template in a row, so that they share its encoder."""
    return request.param


# --- every turn is trained on once, or counted


def conversation(seed):
    """A random conversation. Every assistant turn has words of its own: (messages, words by turn)."""
    draw = random.Random(seed)
    words = itertools.count()
    messages = [{"role": draw.choice(["system", "developer"]), "content": "be quick"}] if draw.random() < 0.5 else []
    turns = []
    for _ in range(draw.randint(1, 4)):
        messages.append(user(f"question{next(words):03}"))
        while True:
            own = [f"answer{next(words):03}"]
            kind = draw.choice(["plain", "plain", "reasoning", "thought", "call", "calls", "empty"])
            turn = assistant(own[0])
            if kind in ("reasoning", "thought"):
                own.append(f"because{next(words):03}")
                if kind == "reasoning":
                    turn[draw.choice(["reasoning_content", "reasoning", "thinking"])] = own[1]
                else:
                    turn["content"] = f"<think>\n{own[1]}\n</think>\n\n{own[0]}"
            elif kind in ("call", "calls"):
                count = 1 + (kind == "calls")
                own = [f"city{next(words):03}" for _ in range(count)]
                turn = assistant("", tool_calls=[call(city) for city in own])
            elif kind == "empty":
                turn, own = assistant(""), []
            messages.append(turn)
            turns.append(own)
            messages += [result(f"sunny{next(words):03}") for _ in turn.get("tool_calls", ())]
            if "tool_calls" not in turn and draw.random() < 0.8:
                break
    return messages, turns


@needs_trl
@pytest.mark.parametrize("seeds", [range(5), pytest.param(range(5, 12), marks=pytest.mark.slow)])
def test_every_assistant_turn_is_trained_on_once_or_counted_with_its_reason(each_template, seeds):
    kept = 0
    for seed in seeds:
        messages, turns = conversation(seed)
        tokenizer = tokenizer_of(each_template)
        encoded = encode(tokenizer, *messages, tools=TOOLS)
        if not encoded.examples:
            assert encoded.misfits, seed
            continue
        kept += 1
        trained = "\n".join(tokenizer.decode(example.ids[example.trained]) for example in encoded.examples)
        times = [[trained.count(word) for word in own] for own in turns]
        answers = sum(bool(own) and own[0] == 1 for own in times)
        assert encoded.notes["turns"] == len(turns)
        assert answers + sum(not_trained(encoded).values()) == len(turns), (seed, times, encoded.notes)
        lost = sum(0 in own[1:] and own[0] == 1 for own in times)
        assert lost == encoded.notes["turns_without_reasoning"], (seed, times, encoded.notes)
        assert all(count <= 1 for own in times for count in own), (seed, times)
    assert kept, "the template takes some of the conversations"


@needs_trl
def test_both_answers_of_two_rounds_are_trained_on_with_the_token_that_ends_each(each_template):
    turns = [user("hello"), assistant("world"), user("what"), assistant("dog")]
    tokenizer = tokenizer_of(each_template)
    encoded = encode(tokenizer, *turns)
    assert not encoded.misfits
    runs = [
        [token for token, _ in run]
        for one in encoded.examples
        for flag, run in itertools.groupby(zip(one.ids, one.trained, strict=True), lambda pair: pair[1])
        if flag
    ]
    assert [word in tokenizer.decode(run) for run, word in zip(runs, ("world", "dog"), strict=True)] == [True, True]
    assert all(run[-1] in tokenizer.added_tokens_decoder for run in runs)


@needs_trl
def test_gpt_oss_whose_end_token_replaces_the_one_of_earlier_turns_learns_each_turn_with_its_end():
    turns = [user("hello"), assistant("world"), user("what"), assistant("dog")]
    first, second = masks(tokenizer_of("gptoss"), *turns)
    assert first.endswith("<|start|>assistant[<|channel|>final<|message|>world<|return|>]")
    assert "final<|message|>world<|end|>" in second
    assert second.endswith("<|start|>assistant[<|channel|>final<|message|>dog<|return|>]")


@needs_trl
@pytest.mark.parametrize("name", ["llama3_1", "llama3_2", "muse_glimmer"])
def test_words_beside_a_tool_call_that_the_template_leaves_out_take_the_conversation_out(name):
    turns = [user("Rome?"), assistant("Let me look.", tool_calls=[call("Rome")]), result("21 C"), assistant("21.")]
    (misfit,) = encode(tokenizer_of(name), *turns, tools=TOOLS).misfits
    assert misfit.reason == "message_not_rendered" and "Let me look." in misfit.preview


@needs_trl
def test_two_answers_in_a_row_are_both_trained_on_where_the_template_rewrites_the_first():
    thought = "<think>\n\n</think>\n\n"
    assert masks(tokenizer_of("qwen3"), user("hello"), assistant("world"), assistant("dog")) == [
        "<|im_start|>user\nhello<|im_end|>\n"
        f"<|im_start|>assistant\n{thought}[world<|im_end|>]\n"
        f"<|im_start|>assistant\n{thought}[dog<|im_end|>]\n"
    ]


@needs_trl
def test_an_answer_without_a_header_of_its_own_is_counted_and_nothing_is_trained_on_twice():
    encoded = encode(tokenizer_of("gemma4"), user("hello"), assistant("world"), assistant("dog"))
    (example,) = encoded.examples
    assert shown(tokenizer_of("gemma4"), example.ids, example.trained).endswith("<|turn>model\n[world<turn|>]\n")
    assert not_trained(encoded) == {"prompt_is_no_prefix": 1}


@needs_trl
def test_a_second_parallel_call_that_the_template_leaves_out_takes_the_conversation_out():
    turns = [user("Rome and Oslo?"), assistant("Let me look.", tool_calls=[call("Rome"), call("Oslo")])]
    turns += [result("21 C"), result("3 C"), assistant("21 and 3.")]
    (misfit,) = encode(tokenizer_of("gptoss"), *turns, tools=TOOLS).misfits
    assert misfit.reason == "tool_calls_not_rendered" and "'city': 'Oslo'" in misfit.preview
    assert len(encode(tokenizer_of("qwen3"), *turns, tools=TOOLS).examples) == 2


@needs_trl
def test_an_answer_after_a_tool_call_with_content_is_trained_on_in_the_context_of_its_generation():
    turns = [user("Rome?"), assistant("Let me look.", tool_calls=[call("Rome")]), result("21 C"), assistant("21.")]
    (mask,) = masks(tokenizer_of("gptoss"), *turns, tools=TOOLS)
    assert mask.endswith(
        "<|start|>assistant[<|channel|>analysis<|message|>Let me look.<|end|>"
        '<|start|>assistant to=functions.weather<|channel|>commentary json<|message|>{"city": "Rome"}<|call|>]'
        '<|start|>functions.weather to=assistant<|channel|>commentary<|message|>"21 C"<|end|>'
        "<|start|>assistant[<|channel|>final<|message|>21.<|return|>]"
    )


def test_an_empty_turn_is_context_and_the_others_are_trained_on():
    turns = [user("hello"), assistant(""), user("what"), assistant("dog"), user("it"), assistant(" ")]
    encoded = encode(tiny(CHATML), *turns)
    assert masks(tiny(CHATML), *turns) == [
        "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n"
        "<|im_start|>user\nwhat<|im_end|>\n<|im_start|>assistant\n[dog<|im_end|>]\n"
    ]
    assert not_trained(encoded) == {"empty_turn": 2} and encoded.notes["turns"] == 3


def test_a_turn_of_reasoning_only_that_the_template_does_not_write_is_counted_and_the_others_are_trained_on():
    turns = [user("hm, hello"), assistant("", reasoning_content="hm"), user("what"), assistant("dog")]
    encoded = encode(tiny(CHATML), *turns)
    assert not_trained(encoded) == {"reasoning_not_rendered": 1} and len(encoded.examples) == 1


@needs_trl
def test_a_turn_for_which_the_template_fails_is_not_trained_on_and_those_before_it_are():
    encoded = encode(
        tokenizer_of("cohere"), user("hello"), assistant("world"), user("what"), user("it"), assistant("a")
    )
    assert len(encoded.examples) == 1 and not_trained(encoded) == {"template_error": 1}


def test_the_turns_of_a_rendering_that_is_refused_are_counted():
    # The first answer is rewritten later, so it has a rendering of its own, which here has no end of turn.
    source = (
        "{% for m in messages %}{{ m.role }}: {{ m.content if loop.last else m.content | upper }}"
        "{{ '<|eot|>' if messages | length > 2 else '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    encoded = encode(tiny(source), user("hello"), assistant("world"), user("what"), assistant("dog"))
    assert len(encoded.examples) == 1 and not_trained(encoded) == {"no_end_of_turn": 1}


# --- thinking


def test_reasoning_that_the_template_leaves_out_is_trained_on_after_the_prompt_of_thinking_switched_on():
    source = (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '<|eot|>' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: <think>{{ '' if enable_thinking else '</think>' }}{% endif %}"
    )
    turns = [user("hello"), assistant("world", reasoning_content="because")]
    assert masks(tiny(source), *turns) == ["user: hello<|eot|>assistant: <think>[because</think>world<|eot|>]"]


@needs_trl
def test_an_answer_without_reasoning_is_trained_on_after_the_prompt_of_thinking_switched_off():
    system = "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n"
    tokenizer = tokenizer_of("nemotron_3_nano")
    assert masks(tokenizer, user("hello"), assistant("world")) == [
        f"{system}<|im_start|>assistant\n<think></think>[world<|im_end|>]\n"
    ]
    for turn in (assistant("world", reasoning_content="why"), assistant("<think>why</think>world")):
        assert masks(tokenizer, user("hello"), turn) == [
            f"{system}<|im_start|>assistant\n<think>\n[why\n</think>\nworld<|im_end|>]\n"
        ]


@needs_trl
def test_a_thought_that_the_prompt_opens_and_the_template_drops_is_written_and_trained_on():
    tokenizer = tokenizer_of("deepseek_r1_distill")
    asked = "<s><｜User｜>hello<｜Assistant｜>"
    answer = "world<｜end▁of▁sentence｜>"
    assert masks(tokenizer, user("hello"), assistant("world")) == [f"{asked}<think>\n[\n</think>\n\n{answer}]"]
    for turn in (
        assistant("world", reasoning="why"),
        assistant("<think>\nwhy\n</think>\n\nworld"),
        assistant("why\n</think>\n\nworld"),
    ):
        assert masks(tokenizer, user("hello"), turn) == [f"{asked}<think>\n[why\n</think>\n\n{answer}]"]
    first, second = masks(tokenizer, user("hello"), assistant("world"), user("what"), assistant("dog"))
    assert first == f"{asked}<think>\n[\n</think>\n\n{answer}]"
    assert second.startswith(f"{asked}{answer}<｜User｜>what<｜Assistant｜><think>\n[")


@needs_trl
def test_a_turn_that_only_the_next_role_ends_is_trained_on_with_the_token_of_that_role():
    tokenizer = tokenizer_of("glm4moe")
    assert masks(tokenizer, user("hello"), assistant("world"), user("what"), assistant("dog")) == [
        "[gMASK]<sop><|user|>\nhello/nothink<|assistant|>\n<think></think>[\nworld<|user|>]"
        "\nwhat/nothink<|assistant|>\n<think></think>[\ndog<|user|>]"
    ]
    (mask,) = masks(tokenizer, user("hello"), assistant("", tool_calls=[call("Rome")]), result("21"), assistant("21"))
    assert "</tool_call><|observation|>]\n<tool_response>" in mask
    assert masks(tokenizer, user("hello"), assistant("world", reasoning_content="why")) == [
        "[gMASK]<sop><|user|>\nhello<|assistant|>[\n<think>why</think>\nworld<|user|>]"
    ]


@needs_trl
@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_trained_on_whichever_of_its_keys_the_template_reads(key):
    for name, written in [
        ("qwen3", "[<think>\nwhy\n</think>\n\nworld<|im_end|>]"),
        (
            "gptoss",
            "[<|channel|>analysis<|message|>why<|end|><|start|>assistant<|channel|>final<|message|>world<|return|>]",
        ),
        ("lfm2_2_5", "[<think>why</think>world<|im_end|>]"),
        ("gemma4_v5", "[<|channel>thought\nwhy\n<channel|>world<turn|>]"),
    ]:
        assert written in masks(tokenizer_of(name), user("hello"), assistant("world", **{key: "why"}))[0], name
    encoded = encode(tokenizer_of("llama3"), user("hello"), assistant("world", **{key: "why"}))
    assert encoded.notes["turns_without_reasoning"] == 1, "the template writes no reasoning"


@needs_trl
def test_reasoning_and_content_of_a_tool_call_are_one_thought_where_the_template_takes_one():
    turn = assistant("I look.", reasoning_content="Weather.", tool_calls=[call("Rome")])
    (mask,) = masks(tokenizer_of("gptoss"), user("Rome?"), turn, tools=TOOLS)
    assert "assistant[<|channel|>analysis<|message|>Weather.\n\nI look.<|end|>" in mask


@needs_trl
def test_arguments_of_the_template_are_its_defaults_and_decide_over_the_switch():
    def with_arguments(**arguments):
        tokenizer = tiny(with_defaults(template_files()["qwen3_8"].read_text(), arguments))
        tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]})
        return tokenizer

    thinking = with_arguments(enable_thinking=True, reasoning_effort="low")
    (mask,) = masks(thinking, user("hello"), assistant("world"))
    assert "Reasoning effort is set to low." in mask
    assert mask.endswith("<|im_start|>assistant\n<think>\n[\n</think>\n\nworld<|im_end|>]\n")
    off = with_arguments(enable_thinking=False)
    (mask,) = masks(off, user("hello"), assistant("world", reasoning_content="why"))
    assert "Reasoning effort" not in mask
    question = [{"role": "user", "content": "hello"}]
    prompt = off.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    assert prompt.endswith("<think>\n\n</think>\n\n")
    again = off.apply_chat_template(question, tokenize=False, add_generation_prompt=True, enable_thinking=True)
    assert again.endswith("<think>\n"), "an argument of the caller has precedence"


def test_values_of_all_kinds_are_written_as_the_template_reads_them():
    values = {"a": 'say "%}"\n', "b": None, "c": [1, 2.5, True], "d": {"k": "é🦊"}}
    source = with_defaults("{{ a }}|{{ b is none }}|{{ c | tojson }}|{{ d | tojson }}", values)
    written = tiny(source).apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    assert written == 'say "%}"\n|True|[1, 2.5, true]|{"k": "é🦊"}'


# --- forms of messages


def chats(tmp_path, *rows):
    """The conversations of rows, and the reasons of those that are none."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = Columns(messages="messages", tools="tools")
    frozen = freeze_corpus(Store(), Corpus(path=str(path)), columns, 1 << 20)
    left_out = LeftOut()
    found = [one.content for unit in frozen.units for one in documents_of(frozen.reading, unit, left_out)]
    return found, dict(left_out.reasons)


def flat(tool):
    return {"type": "function"} | tool["function"]


def test_tool_calls_of_every_form_are_the_same_conversation(tmp_path):
    text = json.dumps({"city": "Rome"})
    standard = call("Rome")
    openai = standard | {"function": {"name": "weather", "arguments": text}}
    nameless = {key: value for key, value in standard.items() if key != "type"}

    def turns(calls, role="tool"):
        return [user("Rome?"), {"role": "assistant", "content": None} | calls, result("21") | {"role": role}]

    rows = [
        {"messages": turns({"tool_calls": [one]}), "tools": tools}
        for one, tools in [
            (standard, TOOLS),
            (openai, TOOLS),
            (nameless, TOOLS),
            (standard | {"function": json.dumps(openai["function"])}, json.dumps(TOOLS)),
            (json.dumps(openai), [json.dumps(tool) for tool in TOOLS]),
            ({"id": standard["id"], "name": "weather", "arguments": text}, [flat(tool) for tool in TOOLS]),
            (openai, [TOOLS[0]["function"]]),
        ]
    ]
    rows.append({"messages": turns({"tool_calls": json.dumps([openai])}), "tools": TOOLS})
    found, refused = chats(tmp_path, *rows)
    assert not refused
    assert found == [Chat([user("Rome?"), {"role": "assistant", "tool_calls": [standard]}, result("21")], TOOLS)] * 8
    older = {"messages": turns({"function_call": openai["function"]}, role="function"), "tools": TOOLS}
    (chat,), _ = chats(tmp_path, older)
    assert [message["role"] for message in chat.messages] == ["user", "assistant", "tool"]
    assert chat.messages[1]["tool_calls"] == [{key: standard[key] for key in ("type", "function")}]


@pytest.mark.parametrize(
    ("calls", "reason"),
    [
        ([call("Rome") | {"function": {"name": "weather", "arguments": "{city: Rome}"}}], "bad_messages"),
        ([call("Rome") | {"function": {"name": "weather", "arguments": "[1]"}}], "bad_messages"),
        ([{"type": "function", "function": {"arguments": "{}"}}], "bad_messages"),
        ([{"name": "weather", "parameters": {"city": "Rome"}}], "bad_messages"),
        ([{"type": "tool_use", "id": "c", "name": "weather", "input": {"city": "Rome"}}], "bad_messages"),
        ([{"type": "function", "function": {"name": "now"}}], None),
        ("weather(Rome)", "bad_messages"),
        ([call("Rome") | {"function": {"name": "weather", "arguments": ""}}], None),
        ([], "empty_completion"),
    ],
)
def test_calls_that_cannot_be_read_are_left_out_with_a_reason(tmp_path, calls, reason):
    row = {"messages": [user("Rome?"), assistant("", tool_calls=calls)]}
    assert chats(tmp_path, row)[1] == ({reason: 1} if reason else {})


@needs_trl
def test_arguments_as_json_text_are_trained_on_as_the_object_that_they_are(each_template, tmp_path):
    text = call("Rome")
    text["function"] = text["function"] | {"arguments": '{"city": "Rome"}'}
    rows = [
        {"messages": [user("Rome?"), assistant("", tool_calls=[one]), result("21"), assistant("Mild.")], "tools": TOOLS}
        for one in (call("Rome"), text)
    ]
    (as_object, as_text), _ = chats(tmp_path, *rows)
    assert as_object == as_text
    for mask in masks(tokenizer_of(each_template), *as_text.messages, tools=as_text.tools):
        assert '\\"city' not in mask, "doubly encoded"


@needs_trl
@pytest.mark.parametrize("name", ["qwen2_5", "llama3", "deepseekv3", "nemotron_3_nano", "gptoss", "gemma4", "smolvlm"])
def test_instructions_of_the_developer_are_those_of_the_system(name):
    turns = [user("hello"), assistant("world")]
    asked = [{"role": role, "content": "be quick"} for role in ("developer", "system")]
    developer, system = (masks(tokenizer_of(name), one, *turns) for one in asked)
    assert developer == system and "be quick" in developer[0]


@needs_trl
@pytest.mark.parametrize("name", ["smolvlm", "idefics3", "llava_next"])
def test_templates_that_read_parts_of_content_are_given_parts(name):
    (mask,) = masks(tokenizer_of(name), user("hello"), assistant("world"))
    assert "hello" in mask and "world" in mask.partition("[")[2].replace("/INST]", "").replace("INST]", "")


def test_a_template_that_joins_arguments_with_text_is_given_text():
    (mask,) = masks(tiny(CALLING), user("Rome?"), assistant("", tool_calls=[call("Rome")]))
    assert mask.endswith('assistant: [weather {"city": "Rome"}<|eot|>]')


# --- variables of the template


def folder_with(tmp_path, template):
    return saved(tmp_path / "model", tiny(template))


SWITCHED = CHATML + "{{- '<think>\\n\\n</think>\\n\\n' if add_generation_prompt and enable_thinking is false }}"


def test_variables_of_the_config_are_defaults_of_the_tokenizer_that_is_packed_with_and_exported(tmp_path):
    model = Model(name=folder_with(tmp_path, SWITCHED), chat_template_kwargs={"enable_thinking": False})
    chat = [Columns(messages="messages").read]
    files, fingerprint = write_tokenizer(Store(), str(tmp_path / "t"), model, None, chat, [], [])
    assert "chat_template.jinja" in files
    tokenizer = load_tokenizer(Store(), str(tmp_path / "t"))
    prompt = tokenizer.apply_chat_template([user("hello")], tokenize=False, add_generation_prompt=True)
    assert prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    other = model.model_copy(update={"chat_template_kwargs": {"enable_thinking": True}})
    assert fingerprint != fingerprint_checked(Store(), other, None, chat), "another value is another tokenizer"


def test_a_variable_that_the_template_does_not_have_is_refused(tmp_path):
    folder = folder_with(tmp_path, SWITCHED + "{{- messages[0].calm or messages[0]['mood'] }}")
    for name in ("enable_thinkin", "calm", "mood"):
        model = Model(name=folder, chat_template_kwargs={name: False})
        for check in (
            lambda model: load_checked(Store(), model, None, [Columns(messages="messages").read]),
            lambda model: check_tokenizer(Store(), model, folder, None),  # before anything is started
        ):
            with pytest.raises(ConfigError, match=rf"chat_template_kwargs: the chat template has no variable {name}\."):
                check(model)
    assert check_tokenizer(Store(), Model(name=folder, chat_template_kwargs={"enable_thinking": 1}), folder, None) == []
    chatml = Model(name=folder, chat_template="chatml", chat_template_kwargs={"enable_thinking": 1})
    with pytest.raises(ConfigError, match="no variable enable_thinking"):
        check_tokenizer(Store(), chatml, folder, None)
    for name in ("messages", "add_generation_prompt", "a-b"):
        with pytest.raises(ValueError, match=f"chat_template_kwargs: {name} cannot be set"):
            Model(name="x", chat_template_kwargs={name: 1})


@needs_trl
def test_turns_with_thinking_off_are_counted_where_the_template_thinks_by_default():
    for name, counted in [("nemotron_3_nano", 1), ("qwen3", 1), ("qwen3_5_nothink", 0), ("llama3", 0)]:
        encoded = encode(tokenizer_of(name), user("hello"), assistant("world"))
        assert encoded.notes["turns_with_thinking_off"] == counted, name
        encoded = encode(tokenizer_of(name), user("hello"), assistant("world", reasoning_content="why"))
        assert not encoded.notes["turns_with_thinking_off"], name


@needs_trl
@pytest.mark.parametrize(
    ("name", "stops"),
    [
        ("glm4moe", ["</s>", "<|user|>", "<|observation|>"]),
        ("gptoss", ["<|return|>", "<|call|>"]),
        ("qwen3", ["<|im_end|>"]),
        ("deepseek_r1_distill", ["<｜end▁of▁sentence｜>"]),
    ],
)
def test_generation_stops_at_the_tokens_that_end_turns_in_training(name, stops):
    tokenizer = tokenizer_of(name)
    assert tokenizer.convert_ids_to_tokens(stop_ids(tokenizer)) == stops
