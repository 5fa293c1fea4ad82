"""The kind of run `compare`: models on the same items, with paired differences and a gate."""

from raymill.cluster.entry import Entry
from raymill.cluster.frame.kind import Kind

COMPARE = Kind(
    name="compare",
    call=Entry("raymill.typed_settings:compare"),
    text="is a model better than another on a prepared data set: paired intervals, exact tests, a gate",
    config=Entry("raymill.pipelines.compare.config:CompareConfig"),
    job=Entry("raymill.pipelines.compare.job:CompareJob"),
    command=Entry("raymill.pipelines.compare.commands:compare"),
    own_plan=Entry("raymill.pipelines.compare.plan:plan_comparison"),
    dry_run=Entry("raymill.pipelines.compare.plan:dry_run"),
    extra="train",
    files=("decision.json",),
    folders=("answers", "judges"),
    report=(
        "name",
        "on",
        "items",
        "judges_of_rewards",
        "groups",
        "score",
        "recommendation",
        "approaches",
        "models",
        "comparisons",
        "gate",
        "decision",
        "passed",
        "warnings",
        "finished",
    ),
)
