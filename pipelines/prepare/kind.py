"""The kind of run `prepare`: records of many sources to a data set for fine-tuning."""

from cluster.entry import Entry
from cluster.frame.kind import Kind, Verb

PREPARE = Kind(
    name="prepare",
    text="tickets, chats, question-answer pairs to a data set for fine-tuning",
    config=Entry("pipelines.prepare.config:PrepareConfig"),
    job=Entry("pipelines.prepare.job:PrepareJob"),
    plan=Entry("pipelines.prepare.plan:subject"),
    verbs={
        "assess": Verb(
            Entry("pipelines.prepare.commands:assess"),
            "what a prepared data set is like, with gates; --gate makes them the exit code",
        ),
        "dataset": Verb(
            Entry("pipelines.prepare.commands:dataset"),
            "named versions of prepared data sets: tag, log, diff, card, export, push",
        ),
        "prepare-demo": Verb(
            Entry("pipelines.demo.helpdesk:prepare_demo"), "prepare a data set of tickets with planted defects"
        ),
    },
    files=("inputs.json", "inputs.parquet", "assessment.json"),
    folders=("fetched",),
)
