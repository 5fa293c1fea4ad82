"""FineWeb's recipe on web archives: curate.yaml in this folder has the settings, the command line the crawls.

python fineweb.py OUTPUT CRAWL [CRAWL ...]        folders or URIs with .warc.gz files, such as s3://bucket/CC-MAIN-2026-01
"""

import sys

import raymill


def main(output: str, *crawls: str) -> None:
    inputs = []
    for crawl in crawls:
        name = crawl.rstrip("/").rpartition("/")[2]
        path = f"{crawl}/**/*.warc.gz"
        inputs.append({"source": name, "snapshot": name, "path": path, "columns": ["url", "date"]})
    run = raymill.curate("curate.yaml", inputs=inputs, output=output)
    print(run)
    for row in run.removed.sample(5):
        print(row["url"], row["stage"], row["reason"], row["value"])


if __name__ == "__main__":
    main(*sys.argv[1:])
