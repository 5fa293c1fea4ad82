"""The kind of run `promote`: points an alias to a model."""

from raymill.cluster.entry import Entry
from raymill.cluster.frame.kind import Kind, Verb

PROMOTE = Kind(
    name="promote",
    call=Entry("raymill.typed_settings:promote"),
    text="point an alias, such as champion, to a model, with the evidence for it",
    config=Entry("raymill.training.promote.job:PromoteConfig"),
    job=Entry("raymill.training.promote.job:PromoteJob"),
    own_plan=Entry("raymill.training.promote.job:plan_promotion"),
    dry_run=Entry("raymill.training.promote.job:dry_run"),
    verbs={
        "alias": Verb(
            Entry("raymill.training.promote.commands:alias"),
            "the model of an alias, with its digest; --rollback returns to the model before",
            call=Entry("raymill.training.promote.commands:alias_at"),
        ),
    },
    report=("alias", "folder", "before", "version", "promoted", "model", "digest", "evidence", "moved"),
)
