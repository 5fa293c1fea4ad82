"""The kind of run `curate`: raw text to a training corpus."""

from raymill.cluster.entry import Entry
from raymill.cluster.frame.kind import Kind, Verb

CURATE = Kind(
    name="curate",
    call=Entry("raymill.typed_settings:curate"),
    text="raw text to a training corpus; run it again to continue",
    config=Entry("raymill.pipelines.curate.config:CurateConfig"),
    job=Entry("raymill.pipelines.curate.job:CurateJob"),
    plan=Entry("raymill.pipelines.curate.job:plan"),
    verbs={
        "init": Verb(
            Entry("raymill.pipelines.recipes:init"),
            "a config that follows a published corpus: FineWeb, DCLM, C4 and others",
            call=Entry("raymill.pipelines.recipes:write_recipe"),
        ),
        "what-if": Verb(
            Entry("raymill.pipelines.curate.questions.what_if:print_comparison"),
            "decide a measured run again with other settings, in seconds",
            call=Entry("raymill.pipelines.curate.questions.what_if:what_if"),
        ),
        "explain": Verb(
            Entry("raymill.pipelines.curate.questions.explain:print_explanation"),
            "one document: its measurements, and why it was kept or removed",
            call=Entry("raymill.pipelines.curate.questions.explain:explain_document"),
        ),
        "sample": Verb(
            Entry("raymill.pipelines.curate.questions.sample:print_sample"),
            "a few rows of an artifact, picked by column values",
            call=Entry("raymill.pipelines.curate.questions.sample:sample"),
        ),
        "warm": Verb(
            Entry("raymill.pipelines.warm:warm"),
            "compile the kernels of curate ahead, for this machine or for an image",
            call=Entry("raymill.pipelines.warm:warm_kernels"),
        ),
        "demo": Verb(
            Entry("raymill.pipelines.demo.commands:demo"),
            "curate the documentation found on this machine, as a first run",
            call=Entry("raymill.pipelines.demo.commands:run_demo"),
        ),
    },
    files=("inputs.json", "inputs.parquet"),
    folders=("answers",),
    report=(
        "schema",
        "run",
        "totals",
        "funnel",
        "languages",
        "sources",
        "histograms",
        "similarity",
        "groups",
        "hosts",
        "dates",
        "opt_outs",
        "copies",
        "samples",
        "personal_data",
        "boilerplate",
        "repeats",
        "quarantine",
        "skipped",
        "duplicate_ids",
        "stages",
        "embeddings",
        "warnings",
    ),
)
