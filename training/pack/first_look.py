"""Checks of corpora before Ray starts: every file has the format of its name, every corpus has a document."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from cluster.errors import DataError
from cluster.formats import plural
from cluster.readers.files.compression import compression_ending
from cluster.readers.files.file_problems import (
    PROBLEMS_OF_WHOLE_FILES,
    decompression_problem,
    encoding_problem,
    first_bytes,
    json_array_problem,
    line_end_problem,
)
from cluster.readers.files.limits import Limits
from cluster.readers.files.span import Span
from cluster.store.store import Store
from training.pack.corpus_files import LFS_POINTER
from training.pack.documents import require_documents
from training.pack.sources import FrozenCorpus

_THREADS = 16
_LIMITS = Limits()
_PROBLEMS = PROBLEMS_OF_WHOLE_FILES | {
    "corrupt_compression": "the compressed data is damaged; write the file again",
    "truncated": "the compressed data ends too early; write the file again",
    "expansion_bomb": f"it expands more than {_LIMITS.max_expansion_ratio:,.0f} times; check what it holds",
    "large_block": f"its zstd window is over {_LIMITS.max_block_mib} MiB; compress it again without `--long`",
    "pointer": "a Git LFS pointer, not the file itself; run `git lfs pull` in its repository",
}


def check_corpora(corpora: Mapping[str, FrozenCorpus]) -> None:
    """Check the first bytes of every file of JSON, and read each corpus up to its first document.

    Raises:
        DataError: a file's content differs from its name, or a corpus has no document.
    """
    for corpus in corpora.values():
        _check_files(corpus)
        require_documents(corpus)


def _check_files(corpus: FrozenCorpus) -> None:
    spans = {span.uri: span for unit in corpus.units for span in unit if span.format in ("jsonl", "json")}
    with ThreadPoolExecutor(_THREADS) as pool:
        problems = zip(spans, pool.map(lambda span: _problem(corpus.store, span), spans.values()), strict=True)
        found = [f"{uri}: {_PROBLEMS[problem]}" for uri, problem in problems if problem]
    if found:
        others = f" (and {plural(len(found) - 1, 'more file')})" if len(found) > 1 else ""
        raise DataError(f"{found[0]}{others}. Or exclude it by a narrower path.")


def _problem(store: Store, span: Span) -> str | None:
    """The problem of a whole file, found in its beginning; None if there is none."""
    if compression_ending(span.uri) and (problem := decompression_problem(store, span, _LIMITS)):
        return problem
    head = first_bytes(store, span, _LIMITS)
    if head.startswith(LFS_POINTER):
        return "pointer"
    of_lines = span.format == "jsonl" and (line_end_problem(head) or json_array_problem(head))
    return encoding_problem(head) or of_lines or None
