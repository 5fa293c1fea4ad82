"""Pages of a JSON API are asked for one after the other; an answer that is none is an error with its address."""

import base64
import json

import pytest
from pydantic import ValidationError

from raymill.cluster.errors import ConfigError, DataError
from raymill.pipelines.prepare.fetch import api
from raymill.pipelines.prepare.fetch.api import _MISSING, at, flat, pages
from raymill.pipelines.prepare.fetch.settings import Api
from tests.support.web_server import Asked, Reply, as_html, as_json

TICKETS = [{"id": n, "fields": {"summary": f"s{n}"}} for n in range(7)]


def fetched(site, position=None, **settings) -> list:
    asked = Api.model_validate({"url": f"{site.url}/t", "allow_private": True, "requests_per_s": 1000} | settings)
    return list(pages(asked, position, "inputs (t).api"))


def ids(found) -> list[int]:
    return [record["id"] for page in found for record in page.records]


def by_page(asked: Asked) -> Reply:
    first = 3 * (int(asked.parameters["page"]) - 1)
    return as_json({"data": {"items": TICKETS[first : first + 3]}})


def by_offset(asked: Asked) -> Reply:
    first = int(asked.parameters["offset"])
    assert asked.parameters["limit"] == "100"
    return as_json({"total": 7, "issues": TICKETS[first : first + 3]})  # the server gives fewer than asked for


def by_cursor(asked: Asked) -> Reply:
    first = int(asked.parameters.get("after", "c0")[1:])
    meta = {"has_more": first + 3 < 7, "after": f"c{first + 3}"}
    return as_json({"tickets": TICKETS[first : first + 3], "meta": meta})


def by_link(asked: Asked) -> Reply:
    first = int(asked.parameters.get("from", 0))
    link = {"Link": f'</t?from={first + 3}>; rel="next", </t>; rel="first"'} if first + 3 < 7 else {}
    return as_json(TICKETS[first : first + 3], headers=link)


def by_next(asked: Asked) -> Reply:
    first = int(asked.parameters.get("from", 0))
    more = {"@odata.nextLink": f"/t?from={first + 3}"} if first + 3 < 7 else {}
    return as_json({"value": TICKETS[first : first + 3]} | more)


@pytest.mark.parametrize(
    ("answer", "settings", "requests"),
    [
        (by_page, {"records": "data.items", "paging": {"by": "page"}}, 4),
        (by_offset, {"records": "issues", "paging": {"by": "offset", "total": "total", "size": 100}}, 3),
        (by_offset, {"records": "issues", "paging": {"by": "offset", "size": 100}}, 4),
        (by_cursor, {"records": "tickets", "paging": {"by": "cursor", "parameter": "after", "field": "meta.after",
                                                      "more": "meta.has_more"}}, 3),
        (by_link, {"paging": {"by": "next"}}, 3),
        (by_next, {"records": "value", "paging": {"by": "next", "field": "@odata.nextLink"}}, 3),
    ],
)  # fmt: skip
def test_every_record_comes_once_however_pages_go_on(site, answer, settings, requests):
    site.answers["/t"] = answer
    found = fetched(site, **settings)
    assert ids(found) == list(range(7)) and len(site.asked) == requests
    assert found[0].records[0] == {"id": 0, "fields.summary": "s0"}
    assert ids(fetched(site, found[0].next, **settings)) == list(range(3, 7)), "begins again after any page"
    assert found[-1].next is None


def test_pages_begin_with_the_number_that_the_config_names(site):
    site.answers["/t"] = lambda asked: as_json(TICKETS[2 * int(asked.parameters["p"]) :][:2])
    found = fetched(site, paging={"by": "page", "parameter": "p", "first": 0})
    assert ids(found) == list(range(7)) and [one.parameters["p"] for one in site.asked] == list("01234")
    assert [one.next for one in found] == ["1", "2", "3", "4", None]


@pytest.mark.parametrize("total", ["7", None, {}])
def test_a_total_that_is_no_number_ends_nothing(site, total):
    site.answers["/t"] = lambda asked: as_json({"total": total, "d": TICKETS[int(asked.parameters["offset"]) :][:3]})
    assert ids(fetched(site, records="d", paging={"by": "offset", "total": "total"})) == list(range(7))
    assert len(site.asked) == 4


@pytest.mark.parametrize("last", [None, "", False])
@pytest.mark.parametrize("by", ["cursor", "next"])
def test_a_next_page_that_is_empty_is_none(site, by, last):
    site.answers["/t"] = lambda asked: as_json({"next": last if asked.parameters else "/t?c=1", "d": [{"id": 1}]})
    paging = {"by": by, "field": "next"} | ({"parameter": "c"} if by == "cursor" else {})
    assert len(fetched(site, records="d", paging=paging)) == 2


def test_the_parameters_of_the_config_are_no_part_of_the_next_address(site):
    site.answers["/t"] = by_next
    settings = {"parameters": {"status": "closed"}, "headers": {"X-Team": "desk"}}
    fetched(site, records="value", paging={"by": "next", "field": "@odata.nextLink", "size": 3}, **settings)
    assert [one.parameters for one in site.asked] == [{"status": "closed", "limit": "3"}, {"from": "3"}, {"from": "6"}]
    assert {(one.headers["Accept"], one.headers["X-Team"]) for one in site.asked} == {("application/json", "desk")}


def test_pages_without_records_may_follow_each_other(site):
    links = {"": "1", "1": "2"}

    def answer(asked: Asked) -> Reply:
        following = links.get(asked.parameters.get("at", ""))
        return as_json(
            [] if following else [{"id": 1}], headers={"Link": f'</t?at={following}>; rel="next"'} if following else {}
        )

    site.answers["/t"] = answer
    assert ids(fetched(site, paging={"by": "next"})) == [1] and len(site.asked) == 3


@pytest.mark.parametrize(("more", "requests"), [(False, 1), (0, 1), (True, 3)])
def test_more_is_false_on_the_last_page(site, more, requests):
    numbers = iter(range(99))
    site.answers["/t"] = lambda asked: as_json(
        {"more": more, "d": [{"id": next(numbers)}] if asked.parameters["page"] < "3" else []}
    )
    fetched(site, records="d", paging={"by": "page", "more": "more"})
    assert len(site.asked) == requests


def test_one_page_is_enough_without_paging(site):
    site.answers["/t"] = as_json([{"id": 1}, "no object", {"id": 2}])
    (page,) = fetched(site, parameters={"status": "closed"})
    assert ids([page]) == [1, 2] and page.asked == f"{site.url}/t?status=closed"
    assert page.failed == [("not_an_object", f"{site.url}/t?status=closed record 1", '"no object"')]


@pytest.mark.parametrize(
    ("auth", "header", "value"),
    [
        ({}, "Authorization", "Bearer me:hunter2"),
        ({"scheme": "Basic"}, "Authorization", f"Basic {base64.b64encode(b'me:hunter2').decode()}"),
        ({"scheme": "none", "header": "X-Api-Key"}, "X-Api-Key", "me:hunter2"),
    ],
)
def test_the_secret_comes_from_the_environment(site, monkeypatch, auth, header, value):
    site.answers["/t"] = as_json([])
    with pytest.raises(ConfigError, match=r"auth\.variable: the environment has no DESK_TOKEN"):
        fetched(site, auth={"variable": "DESK_TOKEN"} | auth)
    monkeypatch.setenv("DESK_TOKEN", "me:hunter2\n")
    fetched(site, auth={"variable": "DESK_TOKEN"} | auth)
    assert [one.headers[header] for one in site.asked] == [value]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"headers": {"authorization": "Bearer x"}}, "authorization is a secret"),
        ({"url": "https://me:word@host/t"}, "holds a user name or password"),
        ({"url": "ftp://host/t"}, "is not the address of a web server"),
        ({"url": "https:///t"}, "is not the address of a web server"),
        ({"url": "https://me@host/t"}, "holds a user name or password"),
        ({"headers": {"Cookie": "a=b"}}, "Cookie is a secret"),
        ({"headers": {"X-API-Key": "a"}}, "X-API-Key is a secret"),
        ({"auth": {"variable": "lower"}}, "should match pattern"),
        ({"paging": {"by": "cursor"}}, "by cursor needs `field`"),
        ({"paging": {"by": "page", "field": "x"}}, "field is of cursor and next"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Api.model_validate({"url": "https://host/t"} | settings)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (as_html("Please log in"), r"/t answered with text/html that is not JSON \(.*Please log in.*to log in: check"),
        (Reply('[{"id": 1}, {"i'), "that is not JSON .*The answer is cut off or damaged"),
        (Reply(""), "that is not JSON"),
        (as_json({"error": 1, "items": []}), r"nothing at `records: `?|a dict|dict at"),
        (Reply("x", 404), "answered with status 404 .*Check the address"),
        (Reply("x", length=50), r"no whole answer .*continues after the last pages"),
        (Reply("[" * 5_000_000), "more than 1 MiB"),
        (Reply("[" * 200_000), "that is not JSON .*cut off or damaged"),
        (Reply("<p>Log in</p>"), "that is not JSON .*a page for people"),
    ],
    ids=["html", "cut", "empty", "no-list", "404", "mid-page", "too-large", "too-deep", "html-as-json"],
)
def test_an_answer_that_is_no_page_is_named(site, reply, message):
    site.answers["/t"] = reply
    with pytest.raises(DataError, match=message) as raised:
        fetched(site, max_mib=1)
    assert f"{site.url}/t" in str(raised.value)


def test_an_answer_that_is_cut_off_once_is_asked_for_again(site):
    replies = iter([Reply('[{"id": 1}, {"i'), as_json([{"id": 1}])])
    site.answers["/t"] = lambda asked: next(replies)
    assert ids(fetched(site)) == [1] and len(site.asked) == 2
    for reply, requests in ((Reply("[{"), 2), (Reply("<html>"), 1), (as_html("Log in"), 1)):
        site.asked.clear()
        site.answers["/t"] = reply
        with pytest.raises(DataError, match="that is not JSON"):
            fetched(site)
        assert len(site.asked) == requests, "a page for people is one the second time, too"


def test_a_number_of_thousands_of_digits_is_a_text(site):
    digits = "9" * 5000
    site.answers["/t"] = Reply(f'[{{"id": 1}}, {{"id": {digits}}}]')
    assert ids(fetched(site)) == [1, digits]


def test_pages_that_do_not_go_on_are_an_error(site):
    site.answers["/t"] = as_json(TICKETS)
    with pytest.raises(DataError, match="has the same content as the page before"):
        fetched(site, paging={"by": "page"})
    site.answers["/t"] = as_json({"more": True, "items": TICKETS, "next": "c1"})
    with pytest.raises(
        DataError, match="says by `more: more` that there are more pages, and has nothing at `field: nxt`"
    ):
        fetched(site, records="items", paging={"by": "cursor", "field": "nxt", "more": "more"})
    numbers = iter(range(9))
    site.answers["/t"] = lambda asked: as_json({"next": "c1", "items": [{"id": next(numbers)}]})
    with pytest.raises(DataError, match="names itself as the next page"):
        fetched(site, records="items", paging={"by": "cursor", "field": "next"})


def test_the_next_page_is_not_asked_of_another_server(site, monkeypatch):
    monkeypatch.setenv("DESK_TOKEN", "hunter2")
    site.answers["/t"] = as_json({"next": "http://localhost:1/t", "items": [{"id": 1}]})
    with pytest.raises(DataError, match=r"the next page is http://localhost:1/t, on another server"):
        fetched(site, records="items", paging={"by": "next", "field": "next"}, auth={"variable": "DESK_TOKEN"})


@pytest.mark.parametrize("name", ["key", "KEY"])
def test_a_secret_that_the_next_address_repeats_is_no_part_of_its_position(site, monkeypatch, name):
    monkeypatch.setenv("DESK_TOKEN", "hunter2")

    def answer(asked: Asked) -> Reply:
        following = None if "from" in asked.parameters else f"/t?from=1&{name}=hunter2"
        return as_json({"next": following, "items": [{"id": len(asked.parameters)}]})

    site.answers["/t"] = answer
    auth = {"variable": "DESK_TOKEN", "parameter": "key"}
    found = fetched(site, records="items", paging={"by": "next", "field": "next"}, auth=auth)
    assert [one.parameters.get("key") for one in site.asked] == ["hunter2", "hunter2"]
    assert len(found) == 2 and "hunter2" not in str(found)


@pytest.mark.parametrize(
    ("by", "following", "auth"),
    [
        ("next", "/t?from=1&u=hunter2/x", {"parameter": "key"}),
        ("next", "/t?from=1&u=%68unter2%2Fx", {"parameter": "key"}),
        ("next", "/t?from=1&u=hunter2/x", {}),
        ("cursor", "hunter2/x:2", {}),
    ],
)
def test_a_position_with_the_secret_is_not_kept(site, monkeypatch, by, following, auth):
    monkeypatch.setenv("DESK_TOKEN", "hunter2/x")
    site.answers["/t"] = as_json({"next": following, "items": [{"id": 1}]})
    with pytest.raises(
        DataError, match=r"the next page with the secret of `auth`.*or send the secret in a header"
    ) as seen:
        fetched(site, records="items", paging={"by": by, "field": "next"}, auth={"variable": "DESK_TOKEN"} | auth)
    assert "unter2" not in str(seen.value)


def test_requests_are_not_sent_faster_than_allowed(site, no_waiting):
    site.answers["/t"] = by_page
    fetched(site, records="data.items", paging={"by": "page"}, requests_per_s=0.1)
    assert len([wait for wait in no_waiting if 5 < wait <= 10]) == 3, "not before the first"


def test_private_addresses_are_refused(site):
    site.answers["/t"] = as_json([])
    with pytest.raises(DataError, match="is of this machine or of a private network"):
        fetched(site, allow_private=False)
    assert site.asked == []


def test_inner_objects_become_dotted_columns():
    record = {"a": {"b": {"c": 1}, "d": [{"e": 2}]}, "f": {}, "g": None}
    assert flat(record) == {"a.b.c": 1, "a.d": [{"e": 2}], "f": {}, "g": None}
    value = {"a.b": {"c": 1}, "a": {"c.d": 2}}
    assert (at(value, "a.c.d"), at(value, "a.b")) == (2, {"c": 1})
    assert at(json.loads("[1]"), "") == [1]
    for missing in ("b", "a.b.c", "b.c", "a.c.d.e"):
        assert at({"a": {"c.d": 2}}, missing) is _MISSING


def test_pages_that_name_each_other_in_a_circle_are_an_error(site):
    numbers = iter(range(99))
    site.answers["/t"] = lambda asked: as_json(
        {"next": "ab"[asked.parameters.get("cursor") == "a"], "items": [{"id": next(numbers)}]}
    )
    with pytest.raises(DataError, match="names as the next page one that was read before"):
        fetched(site, records="items", paging={"by": "cursor", "field": "next"})


@pytest.mark.parametrize(
    "following",
    ["http://[::1", "http://h:abc/", "http://\x00/", "/\x00", "\ud800", "http://xn--" + "a" * 300, "x" * 100_000,
     "http://\u202e.com/"],
)  # fmt: skip
def test_a_next_page_that_is_no_address_is_an_error_of_the_api(site, following):
    site.answers["/t"] = as_json({"next": following, "items": [{"id": 1}]})
    with pytest.raises(DataError, match="the next page"):
        fetched(site, records="items", paging={"by": "next", "field": "next"})


@pytest.mark.parametrize("cursor", ["\ud800", "x" * 1_000_000])
def test_a_cursor_that_no_address_can_hold_is_an_error_of_the_api(site, cursor):
    site.answers["/t"] = as_json({"next": cursor, "items": [{"id": 1}]})
    with pytest.raises(DataError, match=r"its parameters make no address|next page .*ud800', which UTF-8 cannot hold"):
        fetched(site, records="items", paging={"by": "cursor", "field": "next"})


def test_a_record_whose_dotted_names_would_take_much_memory_is_too_large(site, monkeypatch):
    """The characters of a name are repeated for each name within it: 13 MB of JSON became 4 GB."""
    monkeypatch.setattr(api, "_MOST_ADDED", 1000)
    site.answers["/t"] = as_json([{"k" * 99: dict.fromkeys("abcdefghij", 1)}, {"k" * 99: dict.fromkeys("abcdefghijk")}])
    (page,) = fetched(site)
    assert [len(record) for record in page.records] == [10]
    assert [(one.problem, one.where.endswith("record 1")) for one in page.failed] == [("too_large", True)]


def test_an_answer_of_records_without_end_is_refused(site, monkeypatch):
    monkeypatch.setattr(api, "_MOST_RECORDS", 3)
    site.answers["/t"] = as_json([None] * 4)
    with pytest.raises(DataError, match=r"has 4 records, and at most 3 of one answer are read. Ask for smaller pages"):
        fetched(site)


def test_a_record_whose_dotted_names_would_be_endless_is_not_flattened(site):
    deep = {"k" * 20: {str(number): 1 for number in range(1000)}}
    for _ in range(50):
        deep = {"k" * 20: deep}
    site.answers["/t"] = as_json([{"id": 1}, deep])
    (page,) = fetched(site)
    assert page.records == [{"id": 1}]
    assert [(one.problem, one.where.endswith("record 1")) for one in page.failed] == [("too_deep", True)]


@pytest.mark.parametrize(
    "headers",
    [{"X-A": "a\r\nB: 1"}, {"X-A\r\nB": "1"}, {"X-A": "ü"}, {"X-A": "a\0"}, {"": "x"}, {"X A": "b"}, {"X-A": " a"},
     {"Content-Length": "5"}, {"transfer-encoding": "chunked"}],
    ids=str,
)  # fmt: skip
def test_a_header_that_no_request_can_have_is_refused_with_the_config(headers):
    assert Api(url="https://desk.example/t", headers={"X-A": "a b", "Host": "desk"}).headers
    with pytest.raises(ValidationError, match="headers"):
        Api(url="https://desk.example/t", headers=headers)


def test_a_secret_that_no_header_can_have_is_named_by_its_variable_and_not_shown(site, monkeypatch):
    for value in ("tökön", "tok\nen"):
        monkeypatch.setenv("DESK", value)
        with pytest.raises(ConfigError, match=r"auth\.variable: DESK holds") as caught:
            list(pages(Api(url=f"{site.url}/t", auth={"variable": "DESK"}, allow_private=True), None, "inputs (s).api"))
        assert value not in str(caught.value)
