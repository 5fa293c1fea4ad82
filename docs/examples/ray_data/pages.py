"""Ray Data in and out: operators of `raymill.data` on a Dataset, written as Parquet; a corpus of `curate` as a Dataset.

python pages.py OUTPUT        a folder or URI that the workers of Ray reach
"""

import sys

import ray

import raymill
import raymill.data


def main(output: str) -> None:
    dataset: ray.data.Dataset = ray.data.from_items(
        [{"url": f"https://example.org/{n}", "content": "The same sentence, over and over. " * n} for n in range(40)]
        + [{"url": "https://example.org/de", "content": "Der Hafen war still, als die ersten Boote zurückkamen."}]
    )
    for operator in (
        raymill.data.Normalize(text="content"),
        raymill.data.Language(text="content", keep=["en"]),
        raymill.data.Rules(text="content", packs=["gopher_quality", "c4"], gopher_quality={"min_words": 30}),
    ):
        dataset = dataset.map_batches(operator, batch_format="pyarrow")
    good = dataset.filter(expr="keep")
    grouped = raymill.data.deduplicate(good, text="content", id="url", threshold=0.8, scratch=f"{output}/scratch")
    unique = grouped.filter(lambda row: row["partner"] is None)
    pages = unique.map_batches(raymill.data.PersonalData(text="content"), batch_format="pyarrow")
    pages.select_columns(["url", "content"]).write_parquet(f"{output}/pages")

    # These files are an input of `curate` as any others are. Its corpus is a Dataset again.
    run = raymill.curate(
        inputs=[{"path": f"{output}/pages", "text": "content", "id": "url"}],
        output=f"{output}/curated",
        language=None,
        rules=None,
    )
    words = run.corpus.to_ray_dataset().map(lambda row: {"words": len(row["text"].split())})
    print(run.corpus.rows, "pages,", words.sum("words"), "words, of", dataset.count(), "pages")


if __name__ == "__main__":
    main(*sys.argv[1:])
