"""The kind of run `annotate`: records that people label, and one label of each."""

from raymill.cluster.entry import Entry
from raymill.cluster.frame.kind import Kind, Verb

ANNOTATE = Kind(
    name="annotate",
    call=Entry("raymill.typed_settings:annotate"),
    text="records for people to label, the agreement of annotators, and one label of several votes",
    config=Entry("raymill.pipelines.annotate.config:AnnotateConfig"),
    job=Entry("raymill.pipelines.annotate.job:AnnotateJob"),
    actions={
        "round": Verb(
            Entry("raymill.pipelines.annotate.commands:round_of"),
            "the next round of active learning, once the last one is labelled",
        ),
        "export": Verb(
            Entry("raymill.pipelines.annotate.commands:export"),
            "tasks and labels for Label Studio, Argilla, Prodigy or a spreadsheet",
        ),
        "import": Verb(
            Entry("raymill.pipelines.annotate.commands:import_"),
            "labels from Label Studio, Argilla, Prodigy or a spreadsheet",
        ),
        "label": Verb(
            Entry("raymill.pipelines.annotate.commands:label"),
            "a page in the browser on which annotators label the tasks, from the keyboard",
        ),
        "finish": Verb(
            Entry("raymill.pipelines.annotate.commands:finish"),
            "one label of each task, the agreement, and what experts have to decide",
        ),
    },
    files=("inputs.json", "inputs.parquet", "agreement.json"),
    folders=("guidelines", "answers", "labels", "adjudication", "embeddings"),
)
