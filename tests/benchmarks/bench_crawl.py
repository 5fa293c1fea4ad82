"""A web archive end to end, by the command: python -m tests.benchmarks.bench_crawl FOLDER [MEGABYTES] [SETTING=VALUE]

FOLDER has gzipped pages (*.html.gz) at any depth, as the repository of WCXB. They are written, again and again with
another sentence at the end, to one WARC of this size, and `raymill curate` reads it. Printed: time of each
stage, pages a second and core, core-hours for 10^8 pages, and the largest memory of a process.

Of an archive of at most 50 MB, datatrove's steps of FineWeb up to the signatures are timed too, on the same file, if
`make bench` has installed it.

Copies of a page are near-duplicates, so `select` writes fewer pages than a crawl has; all are extracted, measured and
compared.

Predicted 2026-11-26, before the first run, for 1,000 MB on two cores of a quiet machine, pages of 115 kB: 7 ms a page
and core in `measure`, 0.3 in the others; 4 minutes; 1 GiB.
"""

import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from raymill.cluster.store.store import Store
from raymill.pipelines.language import fasttext_classifier
from tests.benchmarks.other_trees import HERE
from tests.benchmarks.timing import machine
from tests.support.warc_records import record, response

PEER = HERE / ".venv-peers" / "bin" / "python"
_MOST_OF_PEER = 50  # megabytes; 80 ms a page


def write_archive(folder: Path, megabytes: int, at: Path) -> tuple[int, int]:
    """Write the archive. Returns (pages, bytes of the pages)."""
    pages = [gzip.decompress(file.read_bytes()) for file in sorted(folder.rglob("*.html.gz"))]
    written = count = size = 0
    with at.open("wb") as archive:
        while written < megabytes * 1_000_000:
            page = pages[count % len(pages)] + f"<p>This is page {count} of the archive.</p>".encode()
            content = gzip.compress(record("response", response(page), count), 6)
            archive.write(content)
            written, count, size = written + len(content), count + 1, size + len(page)
    return count, size


def largest_of(root: int, stop: threading.Event) -> dict[int, int]:
    """Process -> its largest resident memory in kB, of all processes below `root`, looked at twice a second."""
    found: dict[int, int] = {}
    while not stop.wait(0.5):
        parents = {}
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                lines = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
                parents[int(status.parent.name)] = int(lines["PPid"]), int(lines.get("VmRSS", "0").split()[0])
            except (OSError, ValueError):
                continue
        below, more = {root}, True
        while more:
            more = {pid for pid, (parent, _) in parents.items() if parent in below} - below
            below |= more
        for pid in below & parents.keys():
            found[pid] = max(found.get(pid, 0), parents[pid][1])
    return found


def datatrove(archive: Path) -> None:
    """Print processor time a page of datatrove, and wall time of its steps."""
    if not PEER.exists():
        print("datatrove is not installed here: `make bench` does that")
        return
    model = fasttext_classifier.load(Store(), None).path
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [str(PEER), str(Path(__file__).with_name("peer_datatrove_crawl.py")), str(archive), str(model)]
    done = subprocess.run(command, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"datatrove failed:\n{done.stderr}")
    found = json.loads(done.stdout)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    pages = found["pages"]
    print(f"datatrove: {1000 * spent / pages:.1f} ms of a core a page; {found['documents']:,} of {pages:,} pages pass")
    for name, seconds in found["seconds"].items():
        print(f"  {name:<24}{1000 * seconds / pages:>7.2f} ms a page")


def main() -> None:
    folder, megabytes = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    with tempfile.TemporaryDirectory() as made:
        pages, size = write_archive(folder, megabytes, Path(made, "a.warc.gz"))
        print(f"{machine('resiliparse')}\n{pages:,} pages of {size / pages / 1000:.0f} kB, {megabytes} MB", flush=True)
        settings = {
            "kind": "curate",
            "name": "crawl",
            "inputs": [{"path": f"{made}/a.warc.gz", "columns": ["url", "date"]}],
            "output": f"{made}/out",
            "execution": {"max_bad_documents": 0.2},
        }
        Path(made, "c.json").write_text(json.dumps(settings))
        more = [part for one in sys.argv[3:] for part in ("-o", one)]
        command = [sys.executable, "-m", "raymill.cluster.cli", "curate", f"{made}/c.json", *more]
        began = time.monotonic()
        stop, memory = threading.Event(), dict[int, int]()
        running = subprocess.Popen(command, env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"})
        watch = threading.Thread(target=lambda: memory.update(largest_of(running.pid, stop)))
        watch.start()
        status = running.wait()
        stop.set()
        watch.join()
        took = time.monotonic() - began
        stages = json.loads(Path(made, "out", "report.json").read_text())["stages"] if status == 0 else []
        for stage in stages:
            of_page, crawl = 1000 * stage["core_s"] / pages, 1e8 / pages * stage["core_s"] / 3600
            print(f"  {stage['stage']:<12}{of_page:>7.2f} ms of a core a page{crawl:>8.1f} core-hours for 10^8 pages")
        largest = max(memory.values(), default=0) / 2**20
        if status == 0:
            print(f"  {sum(1000 * one['core_s'] for one in stages) / pages:.2f} ms of a core a page in all stages")
        print(f"exit {status}; {took:.0f} s, {pages / took:.0f} pages a second; largest process {largest:.2f} GiB")
        if megabytes <= _MOST_OF_PEER:
            datatrove(Path(made, "a.warc.gz"))


if __name__ == "__main__":
    main()
