"""Every rule removes what it names, at its bound and not before."""

import json

import pytest

from raymill.cluster.errors import ConfigError
from raymill.cluster.examples.content import pair
from raymill.cluster.readers.inputs import Limits
from raymill.cluster.store.store import Store
from raymill.pipelines.language import fasttext_classifier
from raymill.pipelines.prepare.records import validate
from raymill.pipelines.prepare.records.validate import REASONS, Validate, load_validator
from tests.support.contents import preference

GOOD = pair("", "How do I do it?", "", "You do it by doing it well.")


def reason(content, metadata=None, **settings) -> str | None:
    (found,) = reasons([(content, metadata or {})], **settings)
    return found


def reasons(records, **settings) -> list[str | None]:
    found = load_validator(Store(), Validate(**settings))(records)
    assert all(failed is None or failed.reason in REASONS for failed in found)
    return [failed and failed.reason for failed in found]


def test_a_good_record_meets_all_rules():
    assert reason(GOOD) is None
    assert reason("a text") is None


@pytest.mark.parametrize(
    ("length", "found"), [(9, "question_too_short"), (10, None), (500, None), (501, "question_too_long")]
)
def test_the_length_of_a_question(length, found):
    assert reason(pair("", "q" * length, "", "a" * 20)) == found


@pytest.mark.parametrize(
    ("length", "found"), [(19, "answer_too_short"), (20, None), (2000, None), (2001, "answer_too_long")]
)
def test_the_length_of_an_answer(length, found):
    assert reason(pair("", "q" * 10, "", "a" * length)) == found
    assert reason(pair("", "q" * 10, "", "a" * length), answer_chars=None) is None


@pytest.mark.parametrize(("length", "found"), [(4, "text_too_short"), (5, None), (7, None), (8, "text_too_long")])
def test_the_length_of_a_text(length, found):
    assert reason("t" * length, text_chars=(5, 7)) == found


def test_required_and_allowed_metadata():
    assert reason(GOOD, {"category": None}, require=("category",)) == "missing_metadata"
    assert reason(GOOD, {"category": ""}, require=("category",)) == "missing_metadata"
    assert reason(GOOD, {"category": "a"}, require=("category",), allowed={"category": ("a", "b")}) is None
    assert reason(GOOD, {"category": "c"}, allowed={"category": ("a", "b")}) == "not_allowed"
    assert reason(GOOD, {"category": None}, allowed={"category": ("a", "b")}) is None, "`require` is for that"


@pytest.mark.parametrize(
    ("value", "since", "until"),
    [
        ("2026-02-14T23:59:59Z", "too_old", None),
        ("2026-02-15", None, None),
        (" 2026-02-15T23:59:59Z\n", None, None),
        ("2026-02-16", None, "too_new"),
        ("soon", "too_old", "too_new"),
        ("", "too_old", "too_new"),
        (None, "too_old", "too_new"),
    ],
)
def test_dates_are_allowed_from_the_first_to_the_last_day(value, since, until):
    assert reason(GOOD, {"day": value}, since={"day": "2026-02-15"}) == since
    assert reason(GOOD, {"day": value}, until={"day": "2026-02-15"}) == until
    assert reason(GOOD, {}, since={"day": "2026-02-15"}) == "too_old"


def test_the_first_rule_that_fails_is_the_reason_with_what_was_seen_and_wanted():
    short, long = pair("", "q" * 9, "", "a" * 2001), pair("", "q" * 501, "", "a" * 2001)
    settings = Validate(require=("id",), licences=("mit", "isc"), until={"day": "2026-02-15"})
    validator = load_validator(Store(), settings, by_time="day")
    known = {"id": "1", "licence": "mit", "day": "2026-02-15"}
    assert validator(
        [
            (short, {}), (short, known | {"day": "soon"}), (short, known | {"day": "2026-02-16"}),
            (short, known | {"licence": None}), (short, known), (long, known), (pair("", "q" * 10, "", "a"), known),
            (pair("", "q" * 10, "", "I'm sorry, but I can't say it, because of the"), known),
            (pair("", "What is it, the password or the", "", "What is it, the password or the"), known),
        ]
    ) == [
        ("missing_metadata", "id", "a value"), ("no_time", "day: soon", "a date or time"),
        ("too_new", "day: 2026-02-16", "2026-02-15"), ("licence_not_allowed", "", "mit, isc"),
        ("question_too_short", "9", "10"), ("question_too_long", "501", "500"), ("answer_too_short", "1", "20"),
        ("refusal", "i'm sorry, but i can't say it, because of the", "i'm sorry, but i can"),
        ("copied_answer", "What is it, the password or the", "another text than the question"),
    ]  # fmt: skip


def test_what_was_seen_is_shown_up_to_a_length():
    said = [f"As an AI, {'a' * 200}", "Hello there, " + "dear, " * 50, f"{'b' * 200} and the"]
    found = load_validator(Store(), Validate())([(pair("", QUESTION, "", one), {}) for one in said])
    assert [(one.reason, len(one.value)) for one in found] == [
        ("refusal", 80), ("boilerplate", 80), ("truncated_answer", 80 + len("it ends with `the`: "))
    ]  # fmt: skip
    (wrong,) = load_validator(Store(), Validate(json_schema=SCHEMA))([(pair("", QUESTION, "", f'["{"c" * 900}"]'), {})])
    assert len(wrong.value) == 320
    long = pair("", QUESTION, "", "1" * 5000)  # the error of which is a long sentence
    (wrong,) = load_validator(Store(), Validate(json_schema=SCHEMA, answer_chars=None))([(long, {})])
    assert wrong.reason == "not_json" and len(wrong.value) == 80


def test_refusals_and_boilerplate_of_a_config_have_any_case():
    assert reason(pair("", QUESTION, "", "Not our job. Somebody else has to."), refusals=("NOT Our Job",)) == "refusal"
    greeting = pair("", QUESTION, "", "Moin everybody in here.\nMoin again.")
    assert reason(greeting, boilerplate=("MOIN",)) == "boilerplate"


def test_an_answer_that_repeats_the_question():
    again = pair("", "How do I reset my password?", "", "how do I reset my PASSWORD")
    assert reason(again) == "copied_answer"
    assert reason(again, copied_answer=False, answer_in_question=None) is None


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("As an AI, I do not know such things.", "refusal"),
        ("Thank you. I\u2019m sorry, but I can not help with it.", "refusal"),
        ("He said that as an AI it was limited, so he left.", None),
        ("Well then:\nI cannot assist with this request at all.", "refusal"),
    ],
)
def test_refusals_begin_a_sentence(answer, found):
    assert reason(pair("", "What is the answer?", "", answer)) == found
    assert reason(pair("", "What is the answer?", "", answer), refusals=()) is None


def test_bounds_that_are_no_range_are_refused():
    with pytest.raises(ValueError, match="no range"):
        Validate(question_chars=(10, 5))


QUESTION = "Where do I change the password of my account?"


@pytest.mark.parametrize(
    ("answer", "found", "off"),
    [
        ("Hello,\nthank you for contacting us. We will get back to you soon.", "boilerplate", {"boilerplate": ()}),
        ("You change the password of my account in", None, {}),
        ("Do I change the password of my account?", "answer_in_question", {"answer_in_question": None}),
        ("You find it in the settings, below the", "truncated_answer", {"truncated_answers": "keep"}),
    ],
)
def test_answers_that_are_none(answer, found, off):
    record = pair("", QUESTION, "", answer)
    assert reason(record) == found
    assert reason(record, **off) is None


def test_the_input_of_an_instruction_may_have_the_answer():
    context = "The office in Bonn opens at nine and closes at five."
    assert reason(pair("", "When does it open?", context, "opens at nine and closes at five")) is None
    assert reason(pair("", f"When? {context}", "", "opens at nine and closes at five")) == "answer_in_question"


def test_a_last_sentence_without_a_mark_is_allowed_unless_asked_for():
    record = pair("", QUESTION, "", "Open the settings. There you find the field of the passw")
    assert reason(record) is None
    assert reason(record, truncated_answers="sentence") == "truncated_answer"


def test_question_and_answer_have_words_in_common():
    record = pair("", QUESTION, "", "Two rivers meet behind the old stone bridge.")
    assert reason(record) is None
    assert reason(record, relevance=0.1) == "not_relevant"
    assert reason(pair("", QUESTION, "", "The password is in the settings."), relevance=0.3) is None
    half = pair("", "Which password?", "", "Passwords and accounts.")  # passw, which; passw, accou
    assert reason(half, relevance=0.5) is None and reason(half, relevance=0.51) == "not_relevant"


SCHEMA = {"type": "object", "required": ["city"], "properties": {"city": {"$ref": "#/$defs/name"}},
          "$defs": {"name": {"type": "string", "minLength": 2}}}  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ('{"city": "Bonn", "more": [1]}', None),
        ('{"city": "B"}         ', "not_in_schema"),
        ('{"town": "Bonn"}      ', "not_in_schema"),
        ('["city", "of", "Bonn"]', "not_in_schema"),
        ("The city is named Bonn.", "not_json"),
        ('{"city": "Bonn", "x": NaN}', "not_json"),
        ("[" * 1000 + "]" * 1000, "not_json|not_in_schema"),
    ],
)
def test_answers_that_are_json_of_a_schema(tmp_path, answer, found):
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA))
    record = pair("", QUESTION, "", answer)
    inline, from_file = reason(record, json_schema=SCHEMA), reason(record, json_schema=str(path))
    assert inline == from_file and (inline in found.split("|") if found else inline is None)


def test_an_answer_of_a_schema_is_judged_by_nothing_else():
    """It is no text: here it has the words of the question, and ends as no sentence does."""
    record = pair("", "Is the city Bonn, and", "", '{"is": "the", "city": "Bonn, and"}')
    assert reason(record) == "copied_answer" and reason(record, json_schema=SCHEMA) is None


def test_a_schema_that_leads_too_deep_is_no_crash():
    nested = pair("", QUESTION, "", "[" * 400 + "]" * 400)
    assert reason(nested, json_schema={"type": "array", "items": {"$ref": "#"}}) == "not_in_schema"
    large = pair("", QUESTION, "", "1" + "0" * 400)
    assert reason(large, json_schema={"multipleOf": 0.5}) == "not_in_schema"


def test_an_answer_that_takes_the_expression_of_a_schema_too_long_is_left_out_alone(monkeypatch):
    monkeypatch.setattr(validate, "_LIMITS", Limits(document_s=1))
    answers = ['"aaa"', f'"{"a" * 64}b"', '"b"']
    found = reasons(
        [(pair("", QUESTION, "", answer), {}) for answer in answers],
        json_schema={"type": "string", "pattern": "^(a+)+$"},
        answer_chars=None,
    )
    assert found == [None, "schema_too_slow", "not_in_schema"]


def test_a_schema_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA), encoding="utf-8-sig")
    assert reason(pair("", QUESTION, "", '{"city": "B", "n": [1, 2]}'), json_schema=str(path)) == "not_in_schema"


def test_a_record_says_where_its_answer_differs_from_the_schema():
    validator = load_validator(Store(), Validate(json_schema=SCHEMA))
    (failed,) = validator([(pair("", QUESTION, "", '{"city": "B", "more": 1}'), {})])
    assert failed == ("not_in_schema", "$.city: 'B' is too short", "minLength")


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "Correct the schema"), ("[]", "no JSON object"), ('{"type": 5}', r"\$\.type: 5 is not valid .* the schema")],
)
def test_a_schema_that_is_none(tmp_path, content, message):
    path = tmp_path / "schema.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=rf"validate\.json_schema: .*schema\.json: .*{message}"):
        load_validator(Store(), Validate(json_schema=str(path)))


def test_a_reference_to_no_part_of_a_schema_is_refused_before_the_first_answer():
    for reference in ("http://localhost:9/x", "#/$defs/b"):
        schema = {"properties": {"rare": {"$ref": reference}}, "$defs": {"a": {}}}
        with pytest.raises(ConfigError, match=r"json_schema: the reference .* is not part of the schema"):
            load_validator(Store(), Validate(json_schema=schema))


GERMAN = "Das Passwort wird in den Einstellungen des Kontos unter Sicherheit ge\u00e4ndert."


def test_question_and_answer_are_in_one_language():
    records = [(pair("", QUESTION, "", GERMAN), {}), (pair("", QUESTION, "", f"{QUESTION} Yes."), {})]
    assert reasons(records) == [None, "answer_in_question"]
    assert reasons(records, same_language=0.65, answer_in_question=None) == ["other_language", None]
    assert reasons([*records, ("a text", {})], same_language=1.0, answer_in_question=None) == [None, None, None]


def test_languages_are_compared_where_both_are_certain():
    uncertain = "0815 4711 -- 12:30 @ 3.50, 17, 23"
    records = [(pair("", QUESTION, "", uncertain), {}), (pair("", uncertain, "", GERMAN), {})]
    assert reasons(records, same_language=0.65, truncated_answers="keep") == [None, None]


def test_words_of_a_list_in_the_language_of_the_record(tmp_path):
    for language, word in (("en", "settings"), ("de", "Sicherheit")):
        (tmp_path / language).write_text(word)
    lists = {"paths": {language: str(tmp_path / language) for language in ("en", "de")}}
    german, english = pair("", QUESTION, "", GERMAN), pair("", QUESTION, "", "It is in the settings of it.")
    records = [(german, {"language": "en"}), (german, {"language": "de"}), (german, {}), (english, {"language": None})]
    assert reasons(records, bad_words=lists) == [None, "bad_words", "bad_words", "bad_words"]
    assert reasons(records, bad_words=lists | {"max_count": 1}) == [None] * 4
    with pytest.raises(ConfigError, match="no entry"):
        (tmp_path / "empty").write_text("# none")
        load_validator(Store(), Validate(bad_words={"paths": {"en": str(tmp_path / "empty")}}))


def test_a_classifier_of_what_no_record_may_say():
    model = str(fasttext_classifier.built_in())
    records = [(pair("", GERMAN, "", GERMAN), {}), (GOOD, {}), (preference("", GERMAN, GERMAN, GERMAN), {})]
    settings = {"copied_answer": False, "answer_in_question": None}
    german = settings | {"inappropriate": {"model": model, "label": "__label__de", "max_score": 0.5}}
    assert reasons(records, **german) == ["inappropriate", None, "inappropriate"]
    assert reasons(records, **settings) == [None, None, None]
    with pytest.raises(ConfigError, match=r"validate\.inappropriate\.label: 'toxic' is not a label"):
        load_validator(Store(), Validate(inappropriate={"model": model, "label": "toxic"}))


def test_files_of_the_rules_are_part_of_the_fingerprint(tmp_path):
    path = tmp_path / "list"
    path.write_text("word")
    settings = Validate(bad_words={"paths": {"en": str(path)}})
    before = load_validator(Store(), settings).depends_on()
    path.write_text("other")
    after = load_validator(Store(), settings).depends_on()
    assert before != after and settings.files == (str(path),)


def test_the_settings_of_rules_are_part_of_the_fingerprint_where_verdicts_depend_on_them():
    def depends_on(**settings) -> list:
        return load_validator(Store(), Validate(**settings)).depends_on()

    schema = SCHEMA | {"required": []}
    assert depends_on() == depends_on() != depends_on(json_schema=SCHEMA) != depends_on(json_schema=schema)
    listed = depends_on(outliers={"measures": ["letters"]})
    assert listed == depends_on(outliers={"measures": ["letters"], "deviations": 3, "found": "remove"})
    assert listed != depends_on(outliers={"measures": ["text_chars"]}) and listed != depends_on()
    assert len(depends_on(same_language=0.65)[-1]) == 1, "the model of languages"
    assert depends_on()[-1] == [] and depends_on(relevance=0.5) != depends_on()


GERMAN_PAIR = pair("", "Wie setze ich mein Kennwort zurück?", "", "Öffnen Sie die Einstellungen des Kontos.")


def test_languages_to_keep_and_the_least_probability():
    english = pair("", "How do I reset my password?", "", "Open the settings of your account and choose a password.")
    assert reasons([(english, {}), (GERMAN_PAIR, {})], language={"keep": ("en",)}) == [None, "language_not_kept"]
    assert reasons([(english, {}), (GERMAN_PAIR, {})], language={"keep": ("en", "de")}) == [None, None]
    assert reason(english, language={"min_score": 1.0}) == "language_low_score"
    validator = load_validator(Store(), Validate(language={"keep": ("en", "fr")}))
    kept, failed = validator([(english, {}), (GERMAN_PAIR, {"language": "en"})])
    assert kept is None and (failed.value, failed.limit) == ("de", "en, fr"), (
        "as identified, whatever the metadata says"
    )


def test_evaluation_sets_are_kept_out(tmp_path):
    text = "A train leaves the station at nine and arrives at noon after it stopped twice for ten minutes on its way"
    sets = tmp_path / "test.jsonl"
    sets.write_text(json.dumps({"question": text}) + "\n")
    rules = {"decontamination": {"sets": [{"name": "trains", "path": str(sets), "columns": ["question"]}]}}
    leak = pair("", f"Tell me: {text.upper()}?", "", "It travels for three hours.")
    assert reasons([(GOOD, {}), (leak, {})], rules=rules) == [None, "contaminated"]
    rules["decontamination"]["sets"][0]["columns"] = ["answer"]
    with pytest.raises(ConfigError, match=r"^validate\.rules\.decontamination"):
        load_validator(Store(), Validate(rules=rules))
    rules["decontamination"]["sets"][0]["path"] = missing = str(tmp_path / "none.jsonl")
    with pytest.raises(ConfigError, match=f"^validate\\.rules: {missing}: no such file") as raised:
        load_validator(Store(), Validate(rules=rules))
    assert str(raised.value).count("no such file") == 1


def test_packs_of_rules_apply_when_they_are_named():
    assert reason(GOOD, rules={}) is None, "no pack without its name: these are bounds of web pages"
    (failed,) = load_validator(Store(), Validate(rules={"packs": ("gopher_quality",)}))([(GOOD, {})])
    assert (failed.reason, failed.value, failed.limit) == ("gopher_short_doc", "12", "50")
    bounds = {"min_words": 12, "min_stop_words": 0, "min_mean_word_length": 2}
    assert reason(GOOD, rules={"packs": ("gopher_quality",), "gopher_quality": bounds}) is None


def test_a_language_that_the_model_does_not_know_is_refused_with_its_setting():
    with pytest.raises(ConfigError, match=r"^validate\.language\.keep"):
        load_validator(Store(), Validate(language={"keep": ("english",)}))
