"""How two folders lie to each other, and where a pattern's wildcards begin."""

import pytest

from raymill.cluster.errors import ConfigError
from raymill.cluster.output_folder import fixed_folder, path_below, real_path, refuse_output_in_folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "data[1]").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "folder", "rest"),
    [
        ("data/", "data", None), ("/", "/", None), ("data/*.txt", "data", "/*.txt"), ("/a/b/**/c", "/a/b", "/**/c"),
        ("/a/x?y/c", "/a", "/x?y/c"), ("/a/b/[ab].txt", "/a/b", "/[ab].txt"), ("/*", "/", "/*"),
        ("data[1]", "data[1]", None),
        ("s3://b/a/*/c", "s3://b/a", "/*/c"), ("s3://b/a/", "s3://b/a", None), ("s3://b/data[1]", "s3://b", "/data[1]"),
    ],
)  # fmt: skip
def test_a_pattern_is_cut_at_the_folder_above_its_first_wildcard(here, path, folder, rest):
    assert fixed_folder(path) == (folder, rest)


@pytest.mark.parametrize(
    ("inner", "folder", "below"),
    [
        ("data/deep", "data", "/deep"), ("link/new/x", "data", "/new/x"), ("data/x", "link/", "/x"),
        ("data", "data", None),
        ("database", "data", None), ("data", "data/deep", None), ("nowhere/x", "nowhere", "/x"),
        ("s3://b/a/x", "s3://b/a/", "/x"), ("s3://b/ax", "s3://b/a", None), ("s3://b/a", "s3://b/a", None),
        ("s3://b/a", "/b", None), ("/b/a", "s3://b", None), ("s3://b/a/x/y", "s3://b", "/a/x/y"),
    ],
)  # fmt: skip
def test_what_lies_below_a_folder_is_reported_with_its_path_from_there(here, inner, folder, below):
    assert path_below(inner, folder) == below


def test_a_real_path_follows_links_and_leaves_a_uri_without_its_slash(here):
    assert real_path("link/x") == str(here / "data" / "x") and real_path("s3://b/x/") == "s3://b/x"


@pytest.mark.parametrize(
    ("output", "path", "written", "said"),
    [
        ("data", "link", [], "where: data is the folder of the corpus, so .* of its own, such as link-run"),
        ("data/run", "data", [], "where: data/run lies inside the corpus, so .* such as data-run"),
        ("data/run", "data/**/*.txt", ["a.parquet", "b/c.txt"], "lies inside .* such as data-run"),
        ("data/run", "data/*/*.txt", ["a.parquet", "b.txt"], "lies inside"),
        ("s3://b/x/", "s3://b/x", [], "is the folder of"),
        ("DATA", "data", [], "differs only in upper and lower case"),
        ("data/run", "data/**/*.txt", ["a.parquet"], None),
        ("data/run", "data/*.txt", ["a.txt"], None),
        ("s3://b/X", "s3://b/x", [], None),
        ("s3://b/x", "x", [], None),
    ],
)  # fmt: skip
def test_an_output_among_an_input_is_refused_where_its_files_would_be_read(here, output, path, written, said):
    if said is None:
        refuse_output_in_folder("where", output, "the corpus", path, written, "run")
        return
    with pytest.raises(ConfigError, match=said):
        refuse_output_in_folder("where", output, "the corpus", path, written, "run")
