"""Every shape that a content fits keeps all of it, and rows without content are refused with the reason."""

import json
import math
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from raymill.cluster.examples.columns import recognised
from raymill.cluster.examples.content import (
    COLUMNS,
    FIELDS,
    REASONS,
    Chat,
    Message,
    Preference,
    Sides,
    Unusable,
    from_shape,
    pair,
    question_and_answer,
    sides_of,
    to_shape,
)
from raymill.cluster.examples.rows import content_of
from raymill.cluster.examples.texts import texts_of, with_texts
from tests.support.contents import chats, maybe, preference, preferences, preferences_of_turns, some_text

EARLIER = (Message("user", "a?"), Message("assistant", "b."))


@given(some_text)
def test_a_text_is_a_text_again(text):
    assert from_shape(to_shape(text, "text"), "text") == text == content_of({"text": text})


@given(chats)
def test_a_conversation_is_the_same_after_messages(chat):
    assert from_shape(to_shape(chat, "messages"), "messages") == chat
    plain = [{"role": one.role, "content": one.content} for one in chat.messages]
    assert content_of({"messages": json.dumps(plain)}) == chat


@given(chats)
def test_sharegpt_is_read_as_the_same_conversation(chat):
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    plain = [{"from": names[one.role], "value": one.content} for one in chat.messages]
    assert content_of({"messages": json.dumps(plain)}) == chat


@given(maybe, some_text, maybe, some_text)
def test_a_pair_is_the_same_after_pairs_and_messages_and_with_its_input_after_instruction(
    system, prompt, input, answer
):
    whole = pair(system, prompt, input, answer)
    assert content_of({"system": system, "prompt": prompt, "input": input, "completion": answer}) == whole
    assert from_shape(to_shape(whole, "instruction"), "instruction") == whole
    columns = to_shape(whole, "instruction")
    assert (columns["instruction"], columns["input"], columns["output"]) == (prompt, input, answer)
    for shape in ("pairs", "messages"):
        back = from_shape(to_shape(whole, shape), shape)
        assert back.messages == whole.messages
    assert to_shape(whole, "pairs")["prompt"] == (f"{prompt}\n\n{input}" if input else prompt)


@given(preferences)
def test_a_preference_is_the_same_again(given_preference):
    assert from_shape(to_shape(given_preference, "preference"), "preference") == given_preference
    columns = to_shape(given_preference, "preference")
    assert content_of(columns) == given_preference


@given(preferences_of_turns)
def test_a_preference_of_several_turns_with_its_margin_is_the_same_again(preference):
    columns = to_shape(preference, "preference_messages")
    assert from_shape(columns, "preference_messages") == preference
    stored = {
        name: pa.array([value], COLUMNS["preference_messages"][name])[0].as_py() for name, value in columns.items()
    }
    assert from_shape(stored, "preference_messages") == preference
    assert content_of({name: json.dumps(value) for name, value in columns.items()}) == preference


@given(chats, st.booleans(), st.sampled_from(["messages", "pairs", "instruction"]))
def test_a_judged_answer_keeps_its_judgement(chat, desirable, shape):
    judged = replace(chat, desirable=desirable)
    assume(shape == "messages" or sides_of(chat).turns == 1)
    columns = to_shape(judged, shape)
    assert columns["label"] is desirable and from_shape(columns, shape) == judged
    assert with_texts(judged, texts_of(judged)) == judged
    row = {"messages": json.dumps(to_shape(chat, "messages")["messages"]), "desirable": str(desirable)}
    assert content_of(row, keeps_undesirable=True) == judged
    if desirable:
        assert content_of(row) == chat and "label" not in to_shape(chat, shape)


@given(st.one_of(some_text, chats, preferences_of_turns))
def test_texts_taken_out_and_put_back_change_nothing(content):
    assume(not isinstance(content, Preference) or not content.has_equal_answers)
    assert with_texts(content, texts_of(content)) == content


TURN = [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b."}]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": None}, "empty"),
        ({"text": " \n"}, "empty"),
        ({"prompt": "a?", "completion": ""}, "empty"),
        ({"prompt": None, "completion": "b."}, "empty"),
        ({"prompt": "a?", "chosen": "b.", "rejected": None}, "empty"),
        ({"messages": "[]"}, "empty"),
        ({"messages": "not json"}, "bad_messages"),
        ({"messages": '{"role": "user"}'}, "bad_messages"),
        ({"messages": '[{"content": "a?"}]'}, "bad_messages"),
        ({"messages": json.dumps([{"role": "user", "content": [{"type": "image_url"}]}])}, "content_not_text"),
        ({"messages": json.dumps([*TURN, {"role": "critic", "content": "c"}])}, "other_roles"),
        ({"messages": json.dumps([TURN[0], TURN[1] | {"tool_calls": [{}]}])}, "bad_messages"),
        ({"messages": json.dumps(TURN[:1])}, "wrong_order"),
        ({"messages": json.dumps([*TURN, TURN[0]])}, "wrong_order"),
        ({"messages": json.dumps(TURN[::-1])}, "wrong_order"),
        ({"messages": json.dumps([TURN[0], TURN[0], TURN[1]])}, "wrong_order"),
        ({"messages": json.dumps([TURN[0], {"role": "assistant", "content": " "}])}, "empty"),
        ({"messages": json.dumps([{"role": "system", "content": "s"}])}, "wrong_order"),
        ({"messages": None}, "empty"),
        ({"messages": "[" * 100_000}, "bad_messages"),
        ({"messages": json.dumps([TURN[0], TURN[1] | {"weight": 10**400}])}, "bad_messages"),
        ({"messages": json.dumps([TURN[0], TURN[1] | {"loss_weight": math.inf}])}, "bad_messages"),
        ({"prompt": "a?", "completion": " \n"}, "empty"),
        ({"prompt": " ", "chosen": "b.", "rejected": "c"}, "empty"),
    ],
)
def test_a_row_that_is_no_record_is_refused_with_the_reason(row, reason):
    with pytest.raises(Unusable) as refused:
        content_of(row)
    assert refused.value.reason == reason and reason in REASONS


CHAT = Chat((Message("user", "a?"), Message("assistant", "b."), Message("user", "c?"), Message("assistant", "d.")))

SPOKEN = Chat((Message("system", "s"), *CHAT.messages))


@pytest.mark.parametrize(
    ("content", "shape", "reason"),
    [
        ("a text", "messages", "no_answer"),
        ("a text", "preference", "no_answer"),
        (CHAT, "pairs", "several_turns"),
        (CHAT, "instruction", "several_turns"),
        (CHAT, "text", "a_chat"),
        (SPOKEN, "pairs", "several_turns"),
        (SPOKEN, "instruction", "several_turns"),
        (CHAT, "preference", "not_a_preference"),
        (preference("", "a?", "b.", "c."), "messages", "a_preference"),
        (preference("", "a?", "b.", "c."), "text", "a_preference"),
    ],
)
def test_a_shape_that_cannot_say_a_record_refuses_it(content, shape, reason):
    with pytest.raises(Unusable) as refused:
        to_shape(content, shape)
    assert refused.value.reason == reason


def test_null_keys_of_a_struct_column_are_no_other_keys():
    messages = [one | {"tool_calls": None, "name": "Ann", "weight": 1} for one in TURN]
    assert len(content_of({"messages": json.dumps(messages)}).messages) == 2


def test_the_question_and_answer_are_the_last_ones():
    assert question_and_answer(CHAT) == ("c?", "d.")
    assert question_and_answer(preference("s", "a?", "b.", "c.")) == ("a?", "b.")
    assert question_and_answer("a text") is None


def test_a_text_that_cleaning_empties_is_refused():
    for content, texts in (
        (CHAT, ["a?", " ", "c?", "d.", ""]),
        ("a", [""]),
        (preference("", "a", "b", "c"), ["a", "", "c"]),
    ):
        with pytest.raises(Unusable, match="empty"):
            with_texts(content, texts)


def test_an_input_that_cleaning_parts_from_its_question_stays_in_the_question():
    whole = pair("", "Sum up", "a  b", "c")
    assert with_texts(whole, ["Sum up\n\na b", "c", "a b"]).input == "a b"
    assert with_texts(whole, ["Sum up\na b", "c", "a b"]) == Chat(
        (Message("user", "Sum up\na b"), Message("assistant", "c"))
    )


def test_an_input_stays_apart_beside_a_system_message():
    whole = pair("Be brief", "Sum up", "a b", "c")
    assert with_texts(whole, texts_of(whole)) == whole
    assert with_texts(whole, ["", "Sum up\n\na b", "c", "a b"]).messages[0].content == "", "it may be empty"


def test_blank_optional_fields_are_none():
    row = {"system": " \n", "prompt": "a?", "input": "\t", "completion": "b."}
    assert content_of(row) == pair("", "a?", "", "b.")
    row = {"system": " ", "prompt": "a?", "chosen": "b.", "rejected": "c."}
    assert content_of(row) == preference("", "a?", "b.", "c.")


def turns(*texts: str, system: str = "") -> str:
    """Messages of user and assistant in turn, as JSON text; a single text is an assistant's."""
    roles = ("user", "assistant") if len(texts) > 1 else ("assistant",)
    found = [{"role": roles[at % len(roles)], "content": text} for at, text in enumerate(texts)]
    return json.dumps([{"role": "system", "content": system}] * bool(system) + found)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"prompt": "a?", "chosen": turns("a?", "b."), "rejected": turns("a?", "c.")},
            preference("", "a?", "b.", "c."),
        ),
        ({"prompt": "[1]", "chosen": turns("b."), "rejected": turns("c.")}, preference("", "[1]", "b.", "c.")),
        ({"prompt": "a?", "chosen": turns("b."), "rejected": "c."}, preference("", "a?", "b.", "c.")),
        (
            {"prompt": json.dumps([{"role": "user", "content": "a?"}]), "chosen": turns("b."), "rejected": turns("c.")},
            preference("", "a?", "b.", "c."),
        ),
        (
            {"prompt": "a?", "chosen": turns("a?", "b.", system="s"), "rejected": turns("a?", "c.", system="s")},
            preference("s", "a?", "b.", "c."),
        ),
        (
            {"system": "s", "prompt": "a?", "chosen": turns("a?", "b."), "rejected": turns("a?", "c.")},
            preference("s", "a?", "b.", "c."),
        ),
        ({"prompt": "a?", "chosen": turns("a?", "b."), "rejected": turns("d?", "c.")}, "different_questions"),
        (
            {"prompt": "x", "chosen": turns("a?", "b.", "c?", "d."), "rejected": turns("a?", "b.", "c?", "e.")},
            preference("", "c?", "d.", "e.", EARLIER),
        ),
        ({"prompt": "a?", "chosen": '[{"role": "user", "content": "a?"}]', "rejected": turns("c.")}, "wrong_order"),
        ({"prompt": "a?", "chosen": '["b."]', "rejected": "[}"}, preference("", "a?", '["b."]', "[}")),
    ],
)
def test_the_answers_of_a_preference_may_be_conversations(row, expected):
    if isinstance(expected, str):
        with pytest.raises(Unusable) as error:
            content_of(row)
        assert error.value.reason == expected
    else:
        assert content_of(row) == expected
    assert content_of({"prompt": "a?", "completion": "b.", "system": None}) == pair("", "a?", "", "b.")


def hh(*texts: str) -> str:
    """A dialogue as hh-rlhf has it."""
    return "".join(f"\n\n{('Human', 'Assistant')[at % 2]}: {text}" for at, text in enumerate(texts))


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        (turns("a?", "b.", system="s"), turns("a?", "c.", system="s"), preference("s", "a?", "b.", "c.")),
        (turns("a?", "b."), turns("a?", "c."), preference("", "a?", "b.", "c.")),
        (turns("a?", "b."), turns("d?", "c."), "different_questions"),
        (turns("a?", "b.", "c?", "d."), turns("a?", "b.", "c?", "e."), preference("", "c?", "d.", "e.", EARLIER)),
        (turns("a?", "b.", "c?", "d."), turns("a?", "c."), "different_questions"),
        (turns("b."), turns("c."), "no_prompt"),
        ("b.", "c.", "no_prompt"),
        (hh("a?", "b."), hh("a?", "c."), preference("", "a?", "b.", "c.")),
        (hh("a?\n\nHumans: e", " b.\n"), hh("a?\n\nHumans: e", "c."), preference("", "a?\n\nHumans: e", " b.\n", "c.")),
        (hh("a?", "b."), hh("d?", "c."), "different_questions"),
        (hh("a?", "b.", "c?", "d."), hh("a?", "b.", "c?", "e."), preference("", "c?", "d.", "e.", EARLIER)),
        (hh("a?", ""), hh("a?", "c."), "empty"),
        (hh("a?", "b.", "c?"), hh("a?", "c."), "wrong_order"),
        (f"Once.{hh('a?', 'b.')}", f"Once.{hh('a?', 'c.')}", "no_prompt"),
        (hh("a?", "b."), turns("a?", "c."), preference("", "a?", "b.", "c.")),
    ],
)
def test_two_conversations_without_a_prompt_are_a_preference(chosen, rejected, expected):
    row = {"chosen": chosen, "rejected": rejected}
    if isinstance(expected, str):
        with pytest.raises(Unusable) as error:
            content_of(row)
        assert error.value.reason == expected
    else:
        assert content_of(row) == expected


@given(preferences)
def test_a_preference_is_the_same_read_from_two_conversations(preference):
    *first, prompt, chosen, rejected = texts_of(preference)
    system, answers = "".join(first), (chosen, rejected)
    row = {
        name: turns(prompt, answer, system=system) for name, answer in zip(("chosen", "rejected"), answers, strict=True)
    }
    assert content_of(row) == preference and from_shape(to_shape(preference, "preference"), "preference") == preference


def test_what_a_record_says():
    assert sides_of(SPOKEN) == Sides("s", "a?\nb.\nc?", "d.", 2) and sides_of(CHAT) == Sides("", "a?\nb.\nc?", "d.", 2)
    assert sides_of(pair("s", "a?", "in", "b.")) == Sides("s", "a?\n\nin", "b.", 1)
    assert sides_of(preference("s", "a?", "b.", "c.")) == Sides("s", "a?", "b.", 1)
    assert sides_of(preference("s", "c?", "d.", "e.", EARLIER)) == Sides("s", "a?\nb.\nc?", "d.", 2)
    assert sides_of("t") == Sides("", "t", "", 0)
    assert [sides_of(one).text for one in (CHAT, "t")] == ["a?\nb.\nc?\nd.", "t"]
    assert texts_of(preference("s", "a?", "b.", "c.")) == ["s", "a?", "b.", "c."]
    assert texts_of(pair("s", "a?", "in", "b.")) == ["s", "a?\n\nin", "b.", "in"]


ROLES = {"Ann": "assistant", "Bob": "user", "7": "user", "Bot": "system", "*": "skip"}


@pytest.mark.parametrize(
    ("turns", "wanted"),
    [
        ([{"from": "Bot", "value": "s"}, {"from": "Bob", "value": "q"}, {"from": "Bot", "value": "t"},
          {"from": "Ann", "value": "a"}], ["s", "q", "a"]),
        ([{"author_id": 7, "body": " q "}, {"speaker": "Ann", "text": "a"}], ["q", "a"]),
        ([{"from": "Bob", "content": None, "text": "q"}, {"from": "Ann", "content": "a", "text": "x"}], ["q", "a"]),
        ([{"from": None, "sender": "Bob", "body": "q", "plain_body": "x"}, {"from": "Ann", "value": "a"}], ["q", "a"]),
        ([{"from": "Bob", "value": "q"}, {"from": "Bob", "value": "r"}, {"from": "Ann", "value": " "},
          {"from": "Ann", "value": "a"}, {"from": "Eve", "value": "x"}, {"from": "Ann", "value": "b"}],
         ["q\nr", "a\nb"]),
        ([{"from": "Ann", "value": "Hello"}, {"from": "Bob", "value": "q"}, {"from": "Ann", "value": "a"},
          {"from": "Bob", "value": "r"}, {"from": "Ann", "value": "b"}, {"from": "Bob", "value": "Thanks"}],
         ["q", "a", "r", "b"]),
    ],
)  # fmt: skip
def test_speakers_become_roles_from_the_first_question_to_the_last_answer(turns, wanted):
    chat = content_of({"messages": json.dumps(turns)}, ROLES)
    assert [one.content for one in chat.messages] == wanted


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([{"from": "Ann", "value": "a"}], "wrong_order"),
        ([{"from": "Eve", "value": "a"}], "empty"),
        ("x", "bad_messages"),
    ],
)
def test_speakers_without_a_question_and_an_answer_are_refused(turns, reason):
    with pytest.raises(Unusable, match=reason):
        content_of({"messages": json.dumps(turns)}, ROLES)


def test_messages_that_are_nested_too_deeply_are_refused():
    for roles in (None, ROLES):
        with pytest.raises(Unusable, match="bad_messages"):
            content_of({"messages": "[" * 100_000}, roles)


@pytest.mark.parametrize("part", [
    {"type": "text", "text": "So."}, {"type": "Text", "content": "So."}, {"type": "text", "text": {"value": "So."}},
    {"type": "output_text", "value": "So."}, {"text": "So."}, "So.",
])  # fmt: skip
def test_a_part_of_text_is_known_by_several_names(part):
    row = {"messages": json.dumps([{"role": "user", "content": "Why?"}, {"role": "assistant", "content": [part]}])}
    assert content_of(row) == pair("", "Why?", "", "So.")


def test_what_speakers_say_outside_of_questions_and_answers_is_kept_apart():
    turns = [("Bot", "Hello."), ("Ann", "Why?"), ("Bot", "So."), ("Note", "secret"), ("Ann", "Thanks.")]
    row = {"messages": json.dumps([{"speaker": speaker, "text": text} for speaker, text in turns])}
    cut: list[tuple[str, str]] = []
    assert content_of(row, {"Ann": "user", "Bot": "assistant", "Note": "skip"}, cut) == pair("", "Why?", "", "So.")
    assert cut == [("skipped_speaker", "secret"), ("before_question", "Hello."), ("after_answer", "Thanks.")]


def test_of_a_preference_all_turns_are_cleaned_and_shape_preference_has_no_columns_for_earlier_ones():
    content = preference("s", "c?", "d.", "e.", EARLIER)
    assert texts_of(content) == ["s", "a?", "b.", "c?", "d.", "e."]
    louder = with_texts(content, [text.upper() for text in texts_of(content)])
    turns = (Message("user", "A?"), Message("assistant", "B."))
    assert louder == preference("S", "C?", "D.", "E.", turns)
    assert louder.chats[0].messages == (
        Message("system", "S"),
        *turns,
        Message("user", "C?"),
        Message("assistant", "D."),
    )
    with pytest.raises(Unusable, match="several_turns"):
        to_shape(content, "preference")


RANKED = [{"rank": 2, "completion": "b."}, {"rank": 0, "completion": "d."}, {"rank": 1, "completion": "c."}]
SCORED = [{"response": "b.", "overall_score": 3.5}, {"response": "d.", "overall_score": 8}]


def said(text: str, role: str = "assistant") -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


@pytest.mark.parametrize(
    ("prompt", "answers", "wanted"),
    [
        ("a?", RANKED, preference("", "a?", "d.", "b.")),
        ("a?", SCORED, preference("", "a?", "d.", "b.", margin=4.5)),
        ("a?", [one | {"overall_score": 8} for one in SCORED], "tied_answers"),
        ("a?", [*SCORED, {"response": "e.", "overall_score": 8}], preference("", "a?", "d.", "b.", margin=4.5)),
        ("a?", SCORED[:1], "bad_ranking"),
        ("a?", [*SCORED, {"response": "e."}], "bad_ranking"),
        ("a?", [*SCORED, {"response": "e.", "overall_score": "N/A"}], "bad_ranking"),
        ("a?", [{"rank": 0, "completion": " "}, RANKED[0]], "empty"),
        ("a?", [{"rank": 0, "completion": None}, RANKED[0]], "empty"),
        (said("a?", "user"), [{"rank": at, "completion": said(text)} for at, text in enumerate(("b.", "c."))],
         preference("", "a?", "b.", "c.")),
        ("a?", [{"answer": "b.", "rank": 1.0}, {"answer": "c.", "rank": "2"}], preference("", "a?", "b.", "c.")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["prompt", "context", "instruction"])
def test_of_ranked_answers_the_best_and_the_worst_are_a_preference(name, prompt, answers, wanted):
    row = {name: prompt, "completions": answers}
    columns = recognised(row, FIELDS)
    texts = {role: row[name] for role, name in columns.items()}
    given = {role: one if isinstance(one, str) else json.dumps(one) for role, one in texts.items()}
    if isinstance(wanted, str):
        with pytest.raises(Unusable) as refused:
            content_of(given)
        assert refused.value.reason == wanted
    else:
        assert content_of(given) == wanted
        assert content_of(given | {"margin": "1"}).margin == 1


@pytest.mark.parametrize(
    ("margin", "wanted"),
    [("0.25", 0.25), ("-1e-3", -0.001), (" ", None), (None, None)]
    + [(one, "bad_margin") for one in ("wide", "nan", "1e999")],
)
def test_a_margin_is_a_finite_number_or_is_missing(margin, wanted):
    row = {"prompt": "a?", "chosen": "b.", "rejected": "c.", "margin": margin}
    if isinstance(wanted, str):
        with pytest.raises(Unusable, match=wanted):
            content_of(row)
    else:
        assert content_of(row).margin == wanted


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"prompt": said("a?", "user"), "completion": said("b.")}, pair("", "a?", "", "b.")),
        ({"prompt": "a?", "completion": said("b."), "system": "s"}, pair("s", "a?", "", "b.")),
        ({"prompt": said("s", "system") + said("a?", "user"), "completion": "b."}, pair("s", "a?", "", "b.")),
        ({"prompt": json.loads(turns("a?", "b.", "c?")), "completion": said("d.")}, CHAT),
        ({"prompt": said("a?", "user"), "completion": said("b?", "user")}, "wrong_order"),
        ({"prompt": said("a?", "user"), "completion": said(" ")}, "empty"),
    ],
)
def test_a_question_and_its_answer_may_be_messages(row, wanted):
    given = {name: one if isinstance(one, str) else json.dumps(one) for name, one in row.items()}
    if isinstance(wanted, str):
        with pytest.raises(Unusable, match=wanted):
            content_of(given)
    else:
        assert content_of(given) == wanted
        assert content_of(given | {"desirable": "false"}, keeps_undesirable=True) == replace(wanted, desirable=False)


def test_the_judgement_of_llama_factory_is_recognised():
    names = ["instruction", "input", "output", "kto_tag"]
    assert recognised(names, FIELDS)["desirable"] == "kto_tag"
    assert recognised([*names, "label"], FIELDS)["desirable"] == "label"


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"prompt": "a?", "completion": "b.", "desirable": "1"}, True),
        ({"prompt": "a?", "completion": "b.", "desirable": " False"}, False),
        ({"prompt": "a?", "completion": "b."}, None),
        ({"prompt": "a?", "completion": "b.", "desirable": "good"}, "bad_label"),
        ({"prompt": "a?", "completion": "b.", "desirable": None}, "bad_label"),
        ({"text": "b.", "desirable": "0"}, "undesirable"),
        ({"prompt": "a?", "chosen": "b.", "rejected": "c.", "desirable": "0"}, "undesirable"),
    ],
)
def test_a_judgement_is_true_or_false_and_belongs_to_one_answer(row, wanted):
    if isinstance(wanted, str):
        with pytest.raises(Unusable, match=wanted):
            content_of(row, keeps_undesirable=True)
    else:
        assert content_of(row, keeps_undesirable=True).desirable is wanted


def test_a_preference_with_equal_answers_is_none():
    with pytest.raises(Unusable) as refused:
        with_texts(preference("", "a?", "b.", "c."), ["a?", "same", "same\n"])
    assert refused.value.reason == "equal_answers"


ANSWERS = {"chosen": "So.", "rejected": "No."}


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"instruction": "Why?", "input": "It rains.", "system": "s"} | ANSWERS,
         preference("s", "Why?\n\nIt rains.", "So.", "No.")),
        ({"question": "Why?", "system": "s"} | ANSWERS, preference("s", "Why?", "So.", "No.")),
        ({"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "Why?"}],
          "chosen": {"from": "gpt", "value": "So."}, "rejected": {"from": "gpt", "value": "No."}},
         preference("s", "Why?", "So.", "No.")),
        ({"prompt": "Why?", "chosen": '{"role": "admin"}', "rejected": "{}"},
         preference("", "Why?", '{"role": "admin"}', "{}")),
    ],
)  # fmt: skip
def test_preferences_of_other_programs_are_recognised_by_their_columns(row, wanted):
    columns = recognised(row, FIELDS, later=lambda form: "chosen" not in form[0])
    texts = {role: row[name] for role, name in columns.items()}
    assert content_of({role: one if isinstance(one, str) else json.dumps(one) for role, one in texts.items()}) == wanted
