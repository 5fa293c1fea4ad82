"""Settings of a preparation: what cannot be is refused before anything is read, and what is allowed at its bounds."""

from typing import Any, get_args

import pytest

from raymill.pipelines.prepare.config import PrepareConfig
from raymill.pipelines.prepare.records.conversion import TaskType, filled
from raymill.pipelines.prepare.records.validate import Validate
from raymill.pipelines.prepare.stages.split import Split

SOURCE = {"source": "a", "path": "/in/a.jsonl", "columns": {"prompt": "q", "completion": "a", "queue": "queue"}}
API = {"source": "desk", "api": {"url": "https://h/t", "auth": {"variable": "TOKEN"}}, "columns": SOURCE["columns"]}
DATABASE = {"url": "sqlite:////x", "query": "SELECT 1", "password": "DB"}
TABLE = {"types": {"part": "text"}, "template": {"prompt": "{part}?", "completion": "{part}."}}


def config(**changes: Any) -> PrepareConfig:
    base = {"kind": "prepare", "name": "x", "inputs": [SOURCE], "output": "/out"}
    return PrepareConfig.model_validate(base | changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": [SOURCE | {"columns": {"a b": "x"}}]}, "a b is no name of a field"),
        ({"inputs": [SOURCE | {"source": "a b"}]}, "should match pattern"),
        ({"inputs": [API | {"exclude": ["*.tmp"]}]}, "format, exclude, follow_links and storage are of files"),
        ({"inputs": [API | {"storage": {"region": "x"}}]}, "format, exclude, follow_links and storage are of files"),
        ({"inputs": [API, API]}, "several are called desk"),
        ({"inputs": [SOURCE | {"share": 1}, SOURCE | {"source": "b"}]}, "1 of 2 have a share"),
        ({"inputs": [SOURCE | {"share": 0.5}, SOURCE | {"share": 0.6}]}, "these sum to 1.1"),
        ({"inputs": [SOURCE | {"table": TABLE, "columns": {}}], "records": {"shape": "preference"}},
         "makes a question and an answer"),
        ({"mixture": {"fill": False}}, "goes with `share`"),
        ({"clean": {"terminology": {"  ": "x"}}}, "a term is empty"),
        ({"validate": {"answer_chars": [-1, 5]}}, r"answer_chars: \[-1, 5\] is no range"),
        ({"split": {"train": 0.9}}, "sum to 1.1; wanted 1"),
        ({"split": {"by_time": "collected_at", "folds": 3}}, "time alone decides"),
        ({"dedup": {"keeper": "score", "keeper_score": "x"}}, "keeper is position, longest or source"),
        ({"dedup": {"against": ["/earlier"]}}, "records have no score and no earlier runs"),
        ({"dedup": {"scope": "snapshot"}}, "records have no snapshots"),
        ({"split": {"balance": {"by": ["complexity"]}}}, r"add `curriculum: \{\}`"),
        ({"split": {"balance": {"by": ["queue", "source"], "to": {"it": 5}}}}, "it named, and by has queue, source"),
        ({"split": {"balance": {"by": ["queue"], "to": {}}}}, "no value named"),
        ({"split": {"balance": {"by": ["complexity"], "to": {"easy": 5}}}, "curriculum": {}}, "numbers of stages"),
        ({"records": {"section_chars": 0}}, "greater than or equal to 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        config(**change)


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": [SOURCE | {"source": f"s{share}", "share": share} for share in (0.7, 0.2, 0.1)]},
        {"inputs": [SOURCE, SOURCE]},  # files of one source, with other columns
        {"inputs": [SOURCE | {"columns": {"complexity": "c", "prompt": "q", "completion": "a"}}],
         "split": {"stratify": ["complexity"]}},
        {"split": {"train": 0.7, "validation": 0.2, "test": 0.1}},
        {"split": {"train": 1, "validation": 0, "test": 0}},
        {"split": {"stratify": ["language", "length", "queue"], "balance": {"by": ["length"]}}},
        {"split": {"by_time": "collected_at"}},
        {"validate": {"answer_chars": [5, 5], "question_chars": [0, 0], "outliers": {"by": ["queue", "licence"]}}},
        {"dedup": {"keeper": "source", "sources": ["a"]}},
        {"clean": {"pseudonyms": "per_corpus", "pseudonym_key": "KEY", "redact": ["email"]}},
    ],
)  # fmt: skip
def test_what_can_be_is_allowed(change):
    assert config(**change)


def test_a_run_names_its_variables_and_its_metadata_once_and_in_order():
    inputs = [
        SOURCE | {"columns": {"text": "t", "day": "d", "licence": "l"}}, API,
        {"source": "db", "database": DATABASE, "columns": {"queue": "queue", "id": "x"}},
    ]  # fmt: skip
    found = config(inputs=inputs, clean={"pseudonyms": "per_corpus", "pseudonym_key": "KEY", "redact": ["email"]})
    assert found.variables == ("TOKEN", "DB", "KEY")
    assert config().variables == ()
    assert found.metadata == ("day", "licence", "queue", "id")
    base = {"licence", "source", "domain", "task_type", "language", "quality_score", "collected_at"}
    assert found.known == {"day", "queue", "id"} | base


def test_paths_lose_their_detours_but_addresses_do_not():
    paths = ["/in/x/../a.jsonl", "s3://bucket/x/../a", "hf://org/name"]
    found = [one.path for one in config(inputs=[SOURCE | {"path": path} for path in paths]).inputs]
    assert found == ["/in/a.jsonl", "s3://bucket/x/../a", "hf://org/name"]


CHAT_TEMPLATES = [
    ({"shape": "messages", "chats_as_text": {}}, r"chats_as_text: goes with `shape: text`, and the shape is messages"),
    ({"shape": "preference", "preferences": "chosen"}, "preferences: chosen goes with other shapes than preference"),
    (
        {"shape": "preference_messages", "preferences": "chosen"},
        "chosen goes with other shapes than preference_messages",
    ),
    ({"shape": "preference_messages", "undesirable": "keep"}, "undesirable: keep needs one answer a record"),
    ({"shape": "text", "undesirable": "keep"}, "undesirable: keep needs one answer a record"),
    (
        {"shape": "text", "chats_as_text": {"user": "{text}"}},
        r"user: wanted a text with \{content\}, and no other name",
    ),
    ({"shape": "text", "chats_as_text": {"system": "no name"}}, r"system: wanted a text with \{content\}"),
    ({"shape": "text", "chats_as_text": {"assistant": "{content!r}"}}, r"assistant: wanted a text with \{content\}"),
    ({"shape": "text", "chats_as_text": {"user": "{content"}}, r"user: .*write a brace that is text twice"),
    ({"shape": "text", "chats_as_text": {"user": "", "assistant": ""}}, "user and assistant are empty"),
]


@pytest.mark.parametrize(("records", "message"), CHAT_TEMPLATES)
def test_a_conversion_that_cannot_be_is_refused(records, message):
    with pytest.raises(ValueError, match=message):
        config(records=records)


# Of each task type, the texts that its default template makes of HANDBOOK with the metadata below.
HANDBOOK = "# Annual leave\n\nEverybody has thirty days of leave."
METADATA = {"summary": "Thirty days of leave.", "category": "holidays", "source": "handbook"}
DEFAULTS = {
    "qa": ("What do I need to know about Annual leave?", HANDBOOK),
    "summarisation": (f"Summarise this text:\n\n{HANDBOOK}", "Thirty days of leave."),
    "classification": (f"Which category does this text belong to?\n\n{HANDBOOK}", "holidays"),
    "generation": ("Write a text with the title: Annual leave", HANDBOOK),
    "policy": ("What does the policy on Annual leave say?", HANDBOOK),
    "procedure": ("What are the steps of this procedure: Annual leave?", HANDBOOK),
}


@pytest.mark.parametrize("task_type", get_args(TaskType))
def test_the_default_template_of_a_task_type_makes_this_question_and_this_answer(task_type):
    made = filled(config().records.template(task_type), HANDBOOK, METADATA)
    assert [(one.role, one.content) for one in made.messages] == list(
        zip(("user", "assistant"), DEFAULTS[task_type], strict=True)
    )


def test_a_template_of_the_config_goes_before_the_default_of_its_task_type():
    found = config(records={"templates": {"policy": {"prompt": "{title}?"}}}).records
    assert (
        found.template("policy").prompt == "{title}?"
        and "steps of this procedure" in found.template("procedure").prompt
    )
    assert found.template("summarisation").fields == {"text", "summary"}
    assert found.template("classification").fields == {"text", "category"}


@pytest.mark.parametrize("template", ["{a.b}", "{}", "{text:>10}", "{text!r}", "{text", "{0}"])
def test_a_template_names_fields_alone(template):
    for name in ("prompt", "completion", "system"):
        with pytest.raises(ValueError, match=f"templates.qa.*\n.*{name}: "):
            config(records={"templates": {"qa": {"prompt": "{text}"} | {name: template}}})
    assert config(records={"templates": {"qa": {"prompt": "{{text}} {text}", "system": "{source}"}}})


def test_defaults_are_those_that_the_readme_tells():
    assert Split().shares == (0.8, 0.1, 0.1)
    assert Validate().files == ()
    balanced = config(split={"balance": {"by": ["queue"]}}).split.balance
    assert (balanced.to, balanced.most_copies) == ("largest", 5)
