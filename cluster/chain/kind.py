"""The kind `run`: several runs from one file."""

from raymill.cluster.entry import Entry
from raymill.cluster.frame.kind import Kind

RUN = Kind(
    name="run",
    call=Entry("raymill.typed_settings:run"),
    text="a run file: steps of other kinds that use results of earlier steps; run it again to continue",
    config=Entry("raymill.cluster.chain.config:ChainConfig"),
    job=Entry("raymill.cluster.chain.job:ChainJob"),
    own_plan=Entry("raymill.cluster.chain.plan:plan_chain"),
    dry_run=Entry("raymill.cluster.chain.plan:dry_run"),
)
