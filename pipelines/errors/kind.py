"""The kind of run `errors`: the errors of an evaluation or of logs, analysed."""

from raymill.cluster.entry import Entry
from raymill.cluster.frame.kind import Kind

ERRORS = Kind(
    name="errors",
    call=Entry("raymill.typed_settings:errors"),
    text="where a model errs, why, and the records to label, to make or to correct",
    config=Entry("raymill.pipelines.errors.config:ErrorsConfig"),
    job=Entry("raymill.pipelines.errors.job:ErrorsJob"),
    own_plan=Entry("raymill.pipelines.errors.plan:plan_errors"),
    dry_run=Entry("raymill.pipelines.errors.plan:dry_run"),
    files=("slices.json", "confusions.json"),
    folders=("findings", "embeddings"),
)
