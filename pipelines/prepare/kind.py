"""The kind of run `prepare`: records of many sources to a data set for fine-tuning."""

from raymill.cluster.entry import Entry
from raymill.cluster.frame.kind import Kind, Verb

PREPARE = Kind(
    name="prepare",
    call=Entry("raymill.typed_settings:prepare"),
    text="tickets, chats, question-answer pairs to a data set for fine-tuning",
    config=Entry("raymill.pipelines.prepare.config:PrepareConfig"),
    job=Entry("raymill.pipelines.prepare.job:PrepareJob"),
    plan=Entry("raymill.pipelines.prepare.plan:subject"),
    verbs={
        "assess": Verb(
            Entry("raymill.pipelines.prepare.commands:assess"),
            "what a prepared data set is like, with gates; --gate makes them the exit code",
            call=Entry("raymill.pipelines.prepare.commands:assess_data"),
        ),
        "dataset": Verb(
            Entry("raymill.pipelines.prepare.commands:dataset"),
            "named versions of prepared data sets: tag, log, diff, card, export, push",
        ),
        "prepare-demo": Verb(
            Entry("raymill.pipelines.demo.helpdesk:prepare_demo"),
            "prepare a data set of tickets with planted defects",
            call=Entry("raymill.pipelines.demo.helpdesk:run_prepare_demo"),
        ),
    },
    files=("inputs.json", "inputs.parquet", "assessment.json"),
    folders=("fetched", "answers"),
    report=(
        "name",
        "finished",
        "version",
        "output",
        "shape",
        "totals",
        "splits",
        "sources",
        "reasons",
        "cut",
        "listed",
        "contradictions",
        "straddling",
        "older",
        "stages",
        "assigned",
        "made",
        "variants",
        "personal_data",
        "generated",
        "patches",
        "embeddings",
        "classes",
        "passed",
        "warnings",
        "notes",
        "config",
    ),
)
