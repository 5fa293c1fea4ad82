"""Web pages are visited as their servers allow; a page without a text has a problem, and no page is lost."""

from types import SimpleNamespace

import pytest

from raymill.cluster.errors import ConfigError
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.fetch import client
from raymill.pipelines.prepare.fetch import pages as visiting
from raymill.pipelines.prepare.fetch.pages import addresses, pages
from raymill.pipelines.prepare.fetch.settings import Pages
from tests.support.web_server import Reply, as_html

ARTICLE = "<article><h1>Leave</h1>" + "<p>Everybody has thirty days of leave in a year, and more in some years.</p>" * 5


def visited(site, *paths: str, position=None, **settings) -> list:
    urls = [path if "://" in path else site.url + path for path in paths]
    found = Pages.model_validate({"urls": urls, "allow_private": True, "delay_s": 0, "attempts": 2} | settings)
    return list(pages(found, position, found.urls))


def problems(found) -> list:
    return [one.problem for page in found for one in page.failed]


def test_the_main_text_of_each_page_is_a_row(site):
    site.answers["/leave"] = as_html(f"<nav>Home</nav>{ARTICLE}")
    site.answers["/old"] = Reply(status=301, headers={"Location": "/leave"})
    site.answers["/plain"] = Reply("Just text.", kind="text/plain; charset=utf-8")
    found = visited(site, "/leave", "/old", "/plain")
    rows = [record for page in found for record in page.records]
    assert [row["url"] for row in rows] == [f"{site.url}/leave", f"{site.url}/leave", f"{site.url}/plain"]
    assert rows[1]["requested"] == f"{site.url}/old" and rows[2]["text"] == "Just text."
    assert "thirty days" in rows[0]["text"] and "Home" not in rows[0]["text"]
    assert [page.next for page in found] == ["1", "2", None]
    again = visited(site, "/leave", "/old", "/plain", position=found[1].next)
    assert [page.records for page in again] == [found[2].records]


def test_robots_txt_is_obeyed_and_read_once(site, no_waiting):
    site.answers["/robots.txt"] = Reply("User-agent: *\nDisallow: /private/\nCrawl-delay: 9", kind="text/plain")
    site.answers["/a"] = site.answers["/b"] = as_html(ARTICLE)
    site.answers["/hop"] = Reply(status=302, headers={"Location": "/private/b"})
    found = visited(site, "/a", "/private/b", "/hop", "/b")
    assert problems(found) == ["robots_forbid", "robots_forbid"]
    assert [len(page.records) for page in found] == [1, 0, 0, 1]
    assert site.paths() == ["/robots.txt", "/a", "/hop", "/b"]
    assert len([wait for wait in no_waiting if 8 < wait <= 9]) == 3, "the delay that robots.txt wants"


@pytest.mark.parametrize("bound", ["_KEPT_BYTES", "_KEPT_SERVERS"])
def test_rules_of_the_servers_asked_last_are_kept(site, monkeypatch, bound):
    """A server may lead to any number of its names."""
    site.answers |= {"/robots.txt": Reply("User-agent: *\n", kind="text/plain"), "/a": as_html(ARTICLE)}
    monkeypatch.setattr(visiting, bound, 28 if bound == "_KEPT_BYTES" else 2)
    one, two, three = (site.url.replace("127.0.0.1", name) + "/a" for name in ("127.0.0.1", "localhost", "LOCALHOST"))
    found = visited(site, one, two, f"{one}?2", three, f"{one}?3", f"{two}?2")
    assert sum(len(page.records) for page in found) == 6
    assert site.paths().count("/robots.txt") == 4, "of one, two and three, and of two again"


def test_of_robots_txt_the_beginning_is_read(site, monkeypatch):
    rules = "User-agent: *\nDisallow: /a\n"
    monkeypatch.setattr(visiting, "_RULES_BYTES", len(rules))
    site.answers["/robots.txt"] = Reply(f"{rules}Disallow: /b\n", kind="text/plain")
    site.answers["/a"] = site.answers["/b"] = as_html(ARTICLE)
    assert problems(visited(site, "/a", "/b")) == ["robots_forbid"]


def test_the_signature_of_an_address_that_a_redirect_leads_to_is_not_kept(site):
    site.answers["/a"] = Reply(status=302, headers={"Location": "/b?signature=hunter2"})
    site.answers["/b"] = as_html(ARTICLE)
    [page] = visited(site, "/a")
    assert page.records[0]["url"].startswith(f"{site.url}/b") and "hunter2" not in str(page)


@pytest.mark.parametrize(
    ("reply", "allowed"),
    [(Reply(status=404), True), (Reply(status=403), True), (Reply(status=500), False), (Reply(status=429), False),
     (Reply("User-agent: raymill\nDisallow: /", kind="text/plain"), False),
     (Reply("User-agent: other\nDisallow: /", kind="text/plain"), True)],
)  # fmt: skip
def test_a_server_without_rules_allows_all_and_one_that_fails_allows_nothing(site, reply, allowed):
    site.answers |= {"/robots.txt": reply, "/a": as_html(ARTICLE)}
    assert problems(visited(site, "/a")) == ([] if allowed else ["robots_forbid"])


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_does_not_send_its_rules_is_asked_once_for_all_its_pages(site, status, no_waiting):
    site.answers |= {"/robots.txt": Reply(status=status), "/a": as_html(ARTICLE)}
    other = site.url.replace("127.0.0.1", "localhost")
    found = visited(site, "/a", "/b", f"{other}/a", "/c", attempts=3)
    assert problems(found) == ["robots_forbid"] * 4 and site.paths() == ["/robots.txt"] * 6


def test_a_server_that_refuses_five_pages_in_a_row_is_not_asked_again(site, no_waiting):
    site.answers |= {"/robots.txt": Reply(status=404), "/a": as_html(ARTICLE), "/500": Reply(status=500)}
    site.answers |= {f"/{n}": Reply(status=429, headers={"Retry-After": "300"}) for n in range(9)}
    found = visited(site, "/a", *(f"/{n}" for n in range(4)), "/a?", *(f"/{n}" for n in range(9)), "/a", attempts=3)
    assert [len(page.records) for page in found] == [1, 0, 0, 0, 0, 1, *[0] * 10]
    assert problems(found) == ["http_error"] * 9 + ["unreachable"] * 5
    asked = [path for path in site.paths() if path[1:].isdigit()]
    assert len(asked) == 3 * (4 + 5), "three attempts for each page before"
    broken = visited(site, *["/500?" + "x" * n for n in range(8)], "/a", attempts=1)
    assert len(broken[-1].records) == 1, "pages that are broken are no refusal"


def test_requests_to_one_server_have_a_delay_and_those_to_others_none(site, no_waiting):
    site.answers |= {"/a": as_html(ARTICLE), "/b": as_html(ARTICLE)}
    other = site.url.replace("127.0.0.1", "localhost")
    visited(site, "/a", f"{other}/a", "/b", delay_s=5)
    assert len([wait for wait in no_waiting if 4 < wait <= 5]) == 3, "/a and /b after robots.txt and each other"


def test_every_request_to_a_server_waits_from_the_one_before(site, monkeypatch):
    clock, at = [100.0], []
    monkeypatch.setattr(client, "pause", lambda seconds: clock.__setitem__(0, clock[0] + max(0, seconds)))
    monkeypatch.setattr(visiting, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    site.answers["/robots.txt"] = Reply(status=404)
    for path in ("/a", "/b", "/c"):
        site.answers[path] = lambda asked: at.append(clock[0]) or as_html(ARTICLE)
    visited(site, "/a", "/b", "/c", delay_s=5)
    assert at == [105, 110, 115]


@pytest.mark.parametrize(("asks", "longest"), [(9, 9), (1000, 60), (2, 5)])
def test_a_server_may_ask_for_a_delay_of_a_minute(site, no_waiting, asks, longest):
    site.answers["/robots.txt"] = Reply(f"User-agent: *\nCrawl-delay: {asks}", kind="text/plain")
    site.answers["/a"] = as_html(ARTICLE)
    visited(site, "/a", delay_s=5)
    assert longest - 1 < no_waiting[-1] <= longest


def test_an_address_that_is_listed_twice_is_visited_once(site):
    settings = Pages(urls=["https://h/a", "https://h/b", "https://h/a"])
    assert addresses(settings, Store(), "inputs (p).pages") == ("https://h/a", "https://h/b")


def test_the_kind_and_the_charset_of_a_page_are_those_that_the_server_names(site):
    words = "<p>Die Gr\u00f6\u00dfe des B\u00fcros und seine T\u00fcr, die nach au\u00dfen aufgeht.</p>" * 5
    site.answers |= {
        "/latin": Reply(f"<article>{words}</article>".encode("latin-1"), kind="text/html; charset=ISO-8859-1"),
        "/xhtml": Reply(f"<html><body>{ARTICLE}</body></html>", kind="application/xhtml+xml"),
        "/none": Reply(f"<html><body>{ARTICLE}</body></html>", kind=""),
        "/large": as_html(f"<article><p>{'word ' * 20_500}</p></article>"),  # 102,500 letters, below 0.1 MiB
    }
    found = visited(site, *site.answers, max_mib=0.1)
    assert problems(found) == []
    texts = [page.records[0]["text"] for page in found]
    assert "Gr\u00f6\u00dfe" in texts[0] and "thirty days" in texts[1] and "thirty days" in texts[2]


def test_a_page_without_a_text_has_a_problem(site, monkeypatch):
    site.answers |= {
        "/empty": as_html(""),
        "/gone": Reply(status=404),
        "/file": Reply(b"%PDF-1.7", kind="application/pdf"),
        "/round": Reply(status=302, headers={"Location": "/round"}),
        "/large": as_html("x" * 200_000),
        "/cut": as_html("half", length=10_000),
    }
    paths = ("/empty", "/gone", "/file", "/round", "/large", "/cut", "http://127.0.0.1:1/x")
    found = visited(site, *paths, max_mib=0.1)
    assert problems(found) == [
        "empty_extraction", "http_error", "not_a_page", "http_error", "too_large", "unreachable", "unreachable"
    ]  # fmt: skip
    for path, page in zip(paths, found, strict=True):
        assert path.rpartition("/")[2] in page.failed[0].where


def test_private_addresses_are_refused_also_after_a_redirect(site, monkeypatch):
    site.answers["/a"] = Reply(status=302, headers={"Location": "/b"})
    site.answers["/b"] = as_html(ARTICLE)
    assert problems(visited(site, "/a", allow_private=False)) == ["private_address"]
    assert site.asked == []
    looked_at = []
    # robots.txt and /a are allowed; the address that /a leads to is not.
    monkeypatch.setattr(client, "is_public", lambda address: looked_at.append(address) or len(looked_at) < 3)
    assert problems(visited(site, "/a", allow_private=False)) == ["private_address"]
    assert site.paths() == ["/robots.txt", "/a"]


def test_the_list_may_be_a_file(tmp_path):
    (tmp_path / "list.txt").write_text("# handbook\nhttps://h/a\n\n https://h/b \nhttps://h/a\n")
    settings = Pages(urls=str(tmp_path / "list.txt"))
    assert addresses(settings, Store(), "inputs (p).pages") == ("https://h/a", "https://h/b")
    (tmp_path / "list.txt").write_text("https://h/a\n", encoding="utf-8-sig")
    assert addresses(settings, Store(), "inputs (p).pages") == ("https://h/a",)
    (tmp_path / "list.txt").write_text("https://h/a?api_key=hunter2\n")
    with pytest.raises(ConfigError, match=r"list\.txt line 1: the address holds a secret \(`api_key` in") as raised:
        addresses(settings, Store(), "inputs (p).pages")
    assert "hunter2" not in str(raised.value)
    (tmp_path / "list.txt").write_text("https://h/a\nh/b\n")
    with pytest.raises(ConfigError, match=r"list\.txt line 2: h/b is not the address"):
        addresses(settings, Store(), "inputs (p).pages")
    (tmp_path / "list.txt").write_text("# nothing\n")
    with pytest.raises(ConfigError, match="has no address"):
        addresses(settings, Store(), "inputs (p).pages")


@pytest.mark.parametrize(
    "line",
    ["Crawl-delay: \u00b2", "Crawl-delay: " + "9" * 5000, "Request-rate: 1/\u00b2", f"Request-rate: {'9' * 5000}/1",
     "Disallow: http://[", "Disallow: http://%5B", "Sitemap: //[", "Crawl-delay: inf", "\x00: \x00", ":" * 1000],
)  # fmt: skip
def test_a_line_of_robots_txt_that_cannot_be_read_is_passed_over(site, line):
    text = f"User-agent: *\n{line}\nDisallow: /private/\n".encode()
    site.answers["/robots.txt"] = Reply(text, kind="text/plain")
    site.answers["/b"] = as_html("here")
    found = visited(site, "/private/b", "/b")
    assert problems(found) == ["robots_forbid"] and found[1].records[0]["text"] == "here"


def test_an_address_or_redirect_that_is_none_costs_that_page_alone(site):
    site.answers["/a"] = Reply(status=302, headers={"Location": "http://[::1"})
    site.answers["/c"] = Reply(status=302, headers={"Location": "http://a:99999999/"})
    site.answers["/b"] = as_html("here")
    found = visited(site, "/a", "/c", "/b")
    assert problems(found) == ["http_error", "unreachable"] and found[2].records[0]["text"] == "here"
