"""The kind of run `prompt`: prompts with and without examples, on a data set, compared."""

from raymill.cluster.entry import Entry
from raymill.cluster.frame.kind import Kind

PROMPT = Kind(
    name="prompt",
    call=Entry("raymill.typed_settings:prompt"),
    text="compare prompts, examples in them and models on a prepared data set",
    config=Entry("raymill.pipelines.prompting.config:PromptConfig"),
    job=Entry("raymill.pipelines.prompting.job:PromptJob"),
    own_plan=Entry("raymill.pipelines.prompting.plan:plan_prompts"),
    dry_run=Entry("raymill.pipelines.prompting.plan:dry_run"),
    extra="train",
    files=("best.yaml",),
    folders=("answers",),
    report=(
        "name",
        "items",
        "split",
        "score",
        "variants",
        "embeddings",
        "warnings",
        "finished",
    ),
)
