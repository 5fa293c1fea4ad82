"""The kind of run `distil`: a classifier of documents, trained on the scores that a model gave a sample of them."""

from raymill.cluster.entry import Entry
from raymill.cluster.frame.kind import Kind

DISTIL = Kind(
    name="distil",
    call=Entry("raymill.typed_settings:distil"),
    text="a fast classifier of documents from a model's scores of a sample, for curate and prepare",
    config=Entry("raymill.pipelines.distil.config:DistilConfig"),
    job=Entry("raymill.pipelines.distil.job:DistilJob"),
    own_plan=Entry("raymill.pipelines.distil.plan:plan_distillation"),
    files=("inputs.json", "inputs.parquet"),
    folders=("answers", "judges", "classifier"),
)
