"""The kind of run `generate`: records that a model makes of documents, records and topics."""

from raymill.cluster.entry import Entry
from raymill.cluster.frame.kind import Kind

GENERATE = Kind(
    name="generate",
    call=Entry("raymill.typed_settings:generate"),
    text="records that a model makes of documents, records and topics, by templates",
    config=Entry("raymill.pipelines.generate.config:GenerateConfig"),
    job=Entry("raymill.pipelines.generate.job:GenerateJob"),
    own_plan=Entry("raymill.pipelines.generate.plan:plan_generation"),
    files=("inputs.json", "inputs.parquet"),
    folders=("answers",),
    report=(
        "name",
        "documents",
        "quarantined",
        "requests",
        "tries",
        "outcomes",
        "tokens",
        "prices",
        "cost",
        "cost_uncounted",
        "records",
        "removed",
        "reward",
        "agreement",
        "examples",
        "embeddings",
        "warnings",
        "finished",
    ),
)
