"""FineWeb's recipe on web archives: curate.yaml in this folder has the settings, the command line the crawls.

python fineweb.py OUTPUT CRAWL [CRAWL ...]        folders or URIs with .warc.gz files, such as s3://bucket/CC-MAIN-2026-01
"""

import sys

import raymill


def main(output: str, *crawls: str) -> None:
    names = [crawl.rstrip("/").rpartition("/")[2] for crawl in crawls]
    run = raymill.curate(
        "curate.yaml",
        inputs=[
            {"source": name, "snapshot": name, "path": f"{crawl}/**/*.warc.gz", "columns": ["url", "date"]}
            for name, crawl in zip(names, crawls, strict=True)
        ],
        output=output,
    )
    print(run)
    for row in run.removed.sample(5):
        print(row["url"], row["stage"], row["reason"], row["value"])


if __name__ == "__main__":
    main(*sys.argv[1:])
