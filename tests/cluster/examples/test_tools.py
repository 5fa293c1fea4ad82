"""Conversations with tools: every form is read alike, and nothing of them is lost."""

import json

import pytest

from raymill.cluster.examples.columns import recognised
from raymill.cluster.examples.content import (
    REASONS,
    Chat,
    Message,
    Preference,
    ToolCall,
    Unusable,
    as_columns,
    from_shape,
    question_and_answer,
    sides_of,
    to_shape,
)
from raymill.cluster.examples.rows import content_of
from raymill.cluster.examples.texts import _hidden, compared_texts, data_of, texts_of, with_texts
from tests.support.tool_chats import ANSWERED, ARGUMENTS, ASKED, FORMS, RESULT, TOOL, call, chat

SYSTEM = "You can ask for the weather."
ROLES = ("messages", "tools", "system", "prompt", "completion", "history")


def read(row: dict) -> Chat:
    """The content of a row whose columns have their usual names."""
    columns = recognised(row, ROLES)
    assert columns is not None
    texts = {role: row[name] for role, name in columns.items()}
    content = content_of({role: one if isinstance(one, str) else json.dumps(one) for role, one in texts.items()})
    assert isinstance(content, Chat)
    return content


def of_messages(*messages: dict) -> Chat:
    return read({"messages": [{"role": "user", "content": ASKED}, *messages]})


ANSWER = {"role": "assistant", "content": ANSWERED}
CALLED = {"role": "assistant", "content": None, "tool_calls": [call()]}
GIVEN = {"role": "tool", "content": RESULT}


@pytest.mark.parametrize("form", ["openai", "objects", "texts", "older", "sharegpt"])
def test_the_forms_of_openai_and_sharegpt_are_the_same_conversation(form):
    found = read(FORMS[form](1))
    assert [one.role for one in found.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert [(one.name, json.loads(one.arguments)) for one in found.messages[2].calls] == [
        ("get_weather", json.loads(ARGUMENTS))
    ]
    assert found.messages[3].content == RESULT
    (tool,) = json.loads(found.tools)
    assert tool in (TOOL, TOOL["function"])


@pytest.mark.parametrize("form", ["openai", "texts", "older"])
def test_arguments_that_are_text_stay_as_they_are(form):
    assert read(FORMS[form](1)).messages[2].calls[0].arguments == ARGUMENTS


@pytest.mark.parametrize("form", FORMS)
def test_a_conversation_with_tools_is_the_same_after_the_columns_of_messages(form):
    found = read(FORMS[form](1))
    columns = as_columns(found)
    assert from_shape(columns, "messages") == found
    of_struct = dict.fromkeys(("name", "tool_call_id", "weight", "tool_calls"))  # as Parquet has absent keys
    assert from_shape(columns | {"messages": [of_struct | one for one in columns["messages"]]}, "messages") == found
    assert read(json.loads(json.dumps(columns))) == found


@pytest.mark.parametrize("form", FORMS)
def test_texts_and_data_taken_out_and_put_back_change_nothing(form):
    found = read(FORMS[form](1))
    assert with_texts(found, texts_of(found)) == found
    assert with_texts(found, texts_of(found) + data_of(found)) == found


def test_what_is_cleaned_has_no_calls_results_and_tools():
    assert texts_of(read(chat(1))) == [SYSTEM, f"{ASKED} (1)", "", f"{ANSWERED} (1)", ""]
    assert texts_of(read(FORMS["hermes"](1))) == [SYSTEM, f"{ASKED} (1)", "\ue000", f"{ANSWERED} (1)", ""]


def test_strings_and_numbers_of_data_can_be_replaced_alone():
    row = chat(1, '{"to":  "a\\u0040b.org",\n "card": 4111111111111111, "of": ["x\\ny", true, null]}', tools=None)
    row["messages"][3]["content"] = "sent to a@b.org"
    found = read(row)
    data = data_of(found)
    assert data == ["to", "a@b.org", "card", "4111111111111111", "of", "x\ny", "get_weather", "sent to a@b.org"]
    new = {"a@b.org": "<EMAIL>", "4111111111111111": "<CARD>", "sent to a@b.org": "sent to <EMAIL>"}
    replaced = with_texts(found, texts_of(found) + [new.get(one, one) for one in data])
    assert replaced.messages[2].calls[0].arguments == (
        '{"to":  "<EMAIL>",\n "card": "<CARD>", "of": ["x\\ny", true, null]}'
    )
    assert replaced.messages[3].content == "sent to <EMAIL>"


def test_cleaned_text_around_a_call_in_a_tag_keeps_the_call():
    said = 'One  moment.\n<tool_call>{"a":  1}</tool_call>\n<tool_call>{"b":  2}'
    found = of_messages({"role": "assistant", "content": said}, GIVEN, ANSWER)
    texts = texts_of(found)
    assert texts[1] == 'One  moment.\n\ue000\n<tool_call>{"b":  2}', "one without an end is text"
    cleaned = with_texts(found, [text.replace("  ", " ") for text in texts])
    assert cleaned.messages[1].content == 'One moment.\n<tool_call>{"a":  1}</tool_call>\n<tool_call>{"b": 2}'
    gone = with_texts(found, [text.replace("\ue000", "") for text in texts])
    assert gone == found, "a call that cleaning took out stays, with the text beside it"


def test_a_text_with_many_tags_is_searched_once_for_the_character_that_stands_for_them():
    """Each search reads the whole text, if it has a character of a higher number."""

    class Searched(str):
        searches = 0

        def __contains__(self, part):
            Searched.searches += 1
            return super().__contains__(part)

    text = Searched("<tools></tools>" * 50 + "\uffff")
    assert _hidden(text) == ("\ue000" * 50 + "\uffff", ["<tools></tools>"] * 50)
    assert Searched.searches == 1
    assert _hidden("\ue000<tools></tools>") == ("\ue000<tools></tools>", [])


def test_keys_of_messages_that_templates_or_the_loss_read_are_kept():
    found = of_messages(
        {"role": "assistant", "content": ANSWERED, "reasoning_content": "Look.", "weight": 0, "train": False},
        {"role": "user", "content": ASKED, "name": "Ann"},
        ANSWER | {"weight": 1, "training": True, "name": ""},
    )
    answer, question, last = found.messages[1:]
    assert answer.keys == (("reasoning_content", "Look."), ("weight", 0.0), ("train", False))
    assert question.keys == (("name", "Ann"),) and last == Message("assistant", ANSWERED)
    assert texts_of(found) == [ASKED, ANSWERED, "Look.", ASKED, ANSWERED, ""]
    assert from_shape(as_columns(found), "messages") == found


def test_questions_answers_and_sides_of_a_conversation_with_tools():
    found = read(chat(1))
    assert question_and_answer(found) == (f"{ASKED} (1)", f"{ANSWERED} (1)")
    sides = sides_of(found)
    called = f"get_weather({ARGUMENTS})"
    assert sides.question == f"{ASKED} (1)\n{called}\n{RESULT}" and sides.answer == f"{ANSWERED} (1)"
    assert (sides.turns, sides.system) == (1, SYSTEM + json.dumps([TOOL]))
    assert compared_texts(found)[-2:] == ["", "get_weather"] and called in compared_texts(found)
    only = of_messages(CALLED)
    assert question_and_answer(only) == (ASKED, "") and sides_of(only).answer == called


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([GIVEN, ANSWER], "wrong_order"),
        ([ANSWER, GIVEN], "wrong_order"),
        ([CALLED, ANSWER], "wrong_order"),
        ([CALLED, GIVEN, {"role": "user", "content": ASKED}, ANSWER], "wrong_order"),
        ([{"role": "assistant", "content": ""}, GIVEN, ANSWER], "empty"),
        ([{"role": "critic", "content": "No."}, ANSWER], "other_roles"),
        ([CALLED | {"tool_calls": [{}]}, GIVEN, ANSWER], "bad_messages"),
        ([CALLED | {"tool_calls": [call("no JSON")]}, GIVEN, ANSWER], "bad_messages"),
        ([CALLED | {"tool_calls": [call("[1]")]}, GIVEN, ANSWER], "bad_messages"),
        ([CALLED | {"tool_calls": [call(id=7)]}, GIVEN, ANSWER], "bad_messages"),
        ([CALLED | {"tool_calls": [call(type="custom")]}, GIVEN, ANSWER], "other_keys"),
        ([CALLED | {"tool_calls": [call(cost=3)]}, GIVEN, ANSWER], "other_keys"),
        ([ANSWER | {"audio": "a.wav"}], "other_keys"),
        ([ANSWER | {"weight": "much"}], "bad_messages"),
        ([ANSWER | {"train": "maybe"}], "bad_messages"),
    ],
)
def test_a_conversation_that_is_damaged_or_has_more_than_the_columns_is_refused(messages, reason):
    with pytest.raises(Unusable) as refused:
        of_messages(*messages)
    assert refused.value.reason == reason


def test_several_results_and_calls_in_a_row_are_in_order():
    assert len(of_messages(CALLED, GIVEN, GIVEN, CALLED, GIVEN, ANSWER, GIVEN | {"content": ""}, ANSWER).messages) == 9


@pytest.mark.parametrize(
    ("tools", "kept"),
    [(None, ""), ("", ""), ("[]", ""), ("null", ""), ('[ {"name":  "f"}]', '[ {"name":  "f"}]'), ('["{}"]', '["{}"]')],
)
def test_tools_stay_as_their_text_is(tools, kept):
    assert read({"messages": chat()["messages"], "tools": tools}).tools == kept


@pytest.mark.parametrize("tools", ["{}x", '{"name": "f"}', "[1]", '["f"]', "[" * 100_000])
def test_tools_that_are_no_list_of_objects_are_refused(tools):
    with pytest.raises(Unusable, match="bad_tools"):
        read({"messages": chat()["messages"], "tools": tools})


@pytest.mark.parametrize("shape", ["pairs", "instruction"])
@pytest.mark.parametrize("more", [{"tool_calls": [call()]}, {"weight": 0.5}, {"thinking": "So."}])
def test_shapes_without_columns_for_them_refuse_tools_weights_and_reasoning(shape, more):
    for found in (of_messages(ANSWER | more), read({"messages": [*chat()["messages"][1::3]], "tools": [TOOL]})):
        with pytest.raises(Unusable, match="other_keys"):
            to_shape(found, shape)


OTHER = {"role": "assistant", "content": "I do not know."}
USER = {"role": "user", "content": ASKED}
# asked, chosen, rejected, and the number of messages of each in the record.
PREFERENCES = {
    "a call is better than an answer": ([USER], [CALLED], [OTHER], (1, 1, 1)),
    "what follows a call": ([USER, CALLED, GIVEN], [ANSWER], [OTHER], (3, 1, 1)),
    "calls, results and answers": ([USER], [CALLED, GIVEN, ANSWER], [OTHER], (1, 3, 1)),
    "a call that both make": ([USER], [CALLED, GIVEN, ANSWER], [CALLED, GIVEN, OTHER], (3, 1, 1)),
    "other results of one call": (
        [USER],
        [CALLED, GIVEN, ANSWER],
        [CALLED, GIVEN | {"content": "{}"}, OTHER],
        (1, 3, 3),
    ),
    "one answer goes on": ([USER], [CALLED, GIVEN, ANSWER], [CALLED], (1, 3, 1)),
    "more calls": ([USER], [CALLED, GIVEN, GIVEN, ANSWER], [CALLED, GIVEN, ANSWER], (1, 4, 3)),
}


@pytest.mark.parametrize("is_implicit", [False, True])
@pytest.mark.parametrize("name", PREFERENCES)
def test_a_preference_may_have_calls_and_is_the_same_again(name, is_implicit):
    asked, chosen, rejected, sizes = PREFERENCES[name]
    parts = {"chosen": asked + chosen, "rejected": asked + rejected}
    row = parts if is_implicit else {"prompt": asked, "chosen": chosen, "rejected": rejected}
    found = content_of({role: json.dumps(value) for role, value in (row | {"tools": [TOOL]}).items()})
    assert isinstance(found, Preference)
    assert (len(found.asked), len(found.chosen), len(found.rejected)) == sizes
    for one, messages in zip(found.chats, parts.values(), strict=True):
        assert one == read({"messages": messages, "tools": [TOOL]})
    columns = as_columns(found)
    assert from_shape(columns, "preference_messages") == found
    absent = dict.fromkeys(("name", "tool_call_id", "tool_calls"))
    stored = {name: [absent | one for one in columns[name]] for name in ("prompt", "chosen", "rejected")}
    assert from_shape(columns | stored, "preference_messages") == found
    assert with_texts(found, texts_of(found) + data_of(found)) == found
    assert sides_of(found).answer == "\n".join(one.text for one in found.chosen)
    with pytest.raises(Unusable, match="other_keys"):
        to_shape(found, "preference")


def test_one_message_with_a_call_alone_is_an_answer():
    called = {"role": "assistant", "tool_calls": [call()]}
    row = {"prompt": ASKED, "chosen": json.dumps(called), "rejected": json.dumps(OTHER), "tools": json.dumps([TOOL])}
    found = content_of(row)
    assert found.chosen[0].calls[0].name == "get_weather" and found.rejected == (
        Message("assistant", OTHER["content"]),
    )


@pytest.mark.parametrize(
    ("chosen", "rejected", "more", "reason"),
    [
        ([CALLED], [CALLED | {"tool_calls": [call(id="2")]}], {}, None),
        ([ANSWER | {"weight": 0.5}], [OTHER], {}, "other_keys"),
        ([ANSWER], [OTHER], {"tools": "{"}, "bad_tools"),
        ([CALLED, GIVEN], [OTHER], {}, "wrong_order"),
        ([CALLED | {"tool_calls": [{}]}], [OTHER], {}, "bad_messages"),
    ],
)
def test_preferences_that_say_nothing_or_are_broken(chosen, rejected, more, reason):
    row = {"prompt": json.dumps([USER]), "chosen": json.dumps(chosen), "rejected": json.dumps(rejected)} | more
    if reason is None:
        assert content_of(row).has_equal_answers
        return
    with pytest.raises(Unusable, match=reason):
        content_of(row)


def test_the_history_of_alpaca_is_the_turns_before_the_question():
    row = {"instruction": "Add.", "input": "1 and 2", "output": "3", "system": "s", "history": [["a?", "b."]]}
    found = content_of({role: row[name] if isinstance(row[name], str) else json.dumps(row[name])
                        for role, name in recognised(row, (*ROLES, "input")).items()})  # fmt: skip
    assert [(one.role, one.content) for one in found.messages] == [
        ("system", "s"), ("user", "a?"), ("assistant", "b."), ("user", "Add.\n\n1 and 2"), ("assistant", "3"),
    ]  # fmt: skip


@pytest.mark.parametrize(("history", "reason"), [("[[1, 2]]", "bad_history"), ("{}x", "bad_history"),
                                                 ('{"a": 1}', "bad_history"), ('[["a?", " "]]', "empty")])  # fmt: skip
def test_a_history_that_is_no_list_of_questions_and_answers_is_refused(history, reason):
    with pytest.raises(Unusable, match=reason):
        content_of({"prompt": "a?", "completion": "b.", "history": history})
    assert reason in REASONS


def test_a_system_prompt_in_a_column_begins_conversations_without_one():
    turns = chat()["messages"]
    assert read({"messages": turns[1:], "system": "Be brief."}).messages[0] == Message("system", "Be brief.")
    assert read({"messages": turns, "system": "Be brief."}).messages[0] == Message("system", SYSTEM)


def test_openai_s_older_name_of_the_tools_is_known():
    columns = ("messages", "functions")
    assert recognised(columns, ROLES) == {"messages": "messages", "tools": "functions"}
    assert recognised((*columns, "tools"), ROLES) == {"messages": "messages", "tools": "tools"}
    assert recognised(("text", "functions"), (*ROLES, "text")) == {"text": "text"}


def test_a_call_reads_as_one():
    assert str(ToolCall("f", "{}")) == "f({})"
