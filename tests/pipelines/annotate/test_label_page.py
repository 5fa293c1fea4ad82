"""The labelling page in a real browser, used by its keyboard: every kind of task, and no label lost."""

import json
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.pipelines.annotate.annotations import Annotation, latest
from raymill.pipelines.annotate.round import Round
from tests.support.browser import Browser
from tests.support.labelling_page import ANSWERS, HOSTILE, TASKS, Client, Page, PageHere, make_round
from tests.support.page_checks import LOW_CONTRAST
from tests.support.sampled import sampled

pytestmark = pytest.mark.browser

ENTER, ESCAPE, TAB, LEFT, RIGHT, UP, DOWN = "\ue007", "\ue00c", "\ue004", "\ue012", "\ue014", "\ue013", "\ue015"
SHIFT, CTRL, ALT, DELETE, END = "\ue008", "\ue009", "\ue00a", "\ue017", "\ue010"
ARABIC = "تم خصم المبلغ مرتين من بطاقتي، سارة من القاهرة"


def wait_for(test: Callable[[], Any], what: str = "") -> Any:
    """What the test returns, once that is true."""
    end = time.monotonic() + 120  # of a busy machine
    while not (found := test()):
        assert time.monotonic() < end, what or test
        time.sleep(0.02)
    return found


class User:
    """An annotator before the page: sees the words on it, and has a keyboard."""

    def __init__(self, browser: Browser, page: Page | PageHere, width: int = 1280, scheme: str = "light") -> None:
        self.browser, self.page = browser, page
        self.open(width, scheme)

    def open(self, width: int = 1280, scheme: str = "light") -> None:
        self.browser.visit(self.page.url, width=width, scheme=scheme)
        wait_for(lambda: self.words(".question, .centre h2") not in ("", "Loading"))

    def words(self, selector: str) -> str:
        return self.browser.script(
            "const one = document.querySelector(arguments[0]); return one?.checkVisibility() ? one.innerText : ''",
            selector,
        )

    def sees(self, selector: str, words: str = "") -> None:
        wait_for(lambda: words in self.words(selector) and self.words(selector), f"{selector}: {words}")

    def sees_all_saved(self) -> None:
        """The page shows that nothing waits to be sent."""
        self.sees("#saving[data-unsent='0']", "Saved")

    def press(self, *keys: str) -> None:
        for key in keys:
            if key[0] in (SHIFT, CTRL, ALT):
                self.browser.press(key[1:], key[0])
            else:
                self.browser.press(key)

    def answers(self) -> dict[str, Annotation]:
        """Task -> the label that counts, by ada."""
        return {task: one for (task, _), one in latest(self.page.round.answers.read()).items()}

    def value(self) -> Any:
        """The only label, once it is stored."""
        return wait_for(lambda: [one for one in self.answers().values() if one.status == "labelled"])[0].value


@pytest.fixture
def serve(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., User]]:
    """`serve(task, texts, ...)`: a user before the page of a round with a task for each text.

    options: of `raymill annotate label`, which then serves in a process of its own; None: this process serves.
    """
    pages: list[Page | PageHere] = []

    def start(
        task: dict, texts: list[str], options: list[str] | None = None, width: int = 1280, scheme: str = "light", **more
    ) -> User:
        round = make_round(tmp_path / f"{len(pages)}", monkeypatch, task, texts, **more)
        pages.append(PageHere(round) if options is None else Page(round, *options))
        pages[-1].start()
        return User(browser, pages[-1], width, scheme)

    yield start
    for page in pages:
        page.kill()


def texts_of(round: Round) -> list[str]:
    return [row.record["prompt"] or "" for row in round.tasks]


def test_two_hundred_tasks_are_labelled_from_the_keyboard(serve):
    keys = {"billing": "1", "login": "2", "other": "3"}
    texts = [f"{list(keys)[at % 7 % 3]}: text {at}" for at in range(200)]
    user = serve(TASKS["classify"], texts)
    wanted = {row.id: (row.record["prompt"] or "").partition(":")[0] for row in user.page.round.tasks}
    order = texts_of(user.page.round)
    for start in range(0, 200, 4):  # the page has more tasks at hand
        user.sees("main .text", order[start])
        user.sees("#count", f"{start} of 200")
        user.press("".join(keys[text.partition(":")[0]] + ENTER for text in order[start : start + 4]))
    user.sees(".centre h2", "All tasks are done")
    user.sees("#count", "200 of 200")
    user.sees_all_saved()
    found = user.answers()
    assert {id: one.value for id, one in found.items()} == wanted
    assert all(one.seconds is not None and 0 <= one.seconds < 60 for one in found.values())
    assert user.browser.complaints() == []
    own = user.page.url.partition("?")[0]
    assert all(address.startswith((own, "data:,")) for address in user.browser.requests())


SPAN_TEXT = "😀 Maria lives in\r\nLisbon"
TURNED = [ANSWERS["answer_c"], ANSWERS["answer_a"], ANSWERS["answer_b"]]


@pytest.mark.parametrize(
    ("name", "keys", "value"),
    [
        ("classify", ["3", "2", ENTER], "login"),
        ("several", ["1", "3", "2", "2", ENTER], ["billing", "other"]),
        ("rate", ["4", ENTER], "4"),
        ("points", ["97", ENTER], "97"),
        ("check", ["2", ENTER], "contradicted"),
        ("write", ["First line.", ENTER, "Second, u s g ? 1.", CTRL + ENTER], "First line.\nSecond, u s g ? 1."),
        ("correct", [CTRL + END, " It was u.", CTRL + ENTER], SPAN_TEXT + " It was u."),
        ("correct", [CTRL + ENTER], SPAN_TEXT),
        ("span", [RIGHT, RIGHT, "1", LEFT + RIGHT + RIGHT + RIGHT, RIGHT, "2", ENTER],
         [{"start": 2, "end": 7, "label": "person"}, {"start": 18, "end": 24, "label": "place"}]),
        ("span", [RIGHT, RIGHT, SHIFT + RIGHT, ALT + LEFT, "2", ENTER],
         [{"start": 2, "end": 12, "label": "place"}]),
        ("span", [RIGHT, RIGHT, "1", DELETE, RIGHT, "2", DELETE, RIGHT, "1", "1", ENTER],
         [{"start": 14, "end": 16, "label": "person"}]),
        ("span", [ENTER], []),
    ],
)  # fmt: skip
def test_each_type_is_answered_from_the_keyboard(serve, name, keys, value):
    user = serve(TASKS[name], [SPAN_TEXT])
    user.press(*keys)
    assert user.value() == value
    user.sees(".centre h2", "All tasks are done")
    assert user.browser.complaints() == []


@pytest.mark.parametrize("better", ["answer_a", "answer_b", "tie"])
def test_answers_are_compared_by_what_they_say(serve, better):
    user = serve(TASKS["compare"], ["text"])
    shown = user.browser.script("return [...document.querySelectorAll('.beside .text')].map(one => one.textContent)")
    assert sorted(shown) == sorted([ANSWERS["answer_a"], ANSWERS["answer_b"]])
    assert "answer_" not in user.words("body")
    user.press("0" if better == "tie" else str(1 + shown.index(ANSWERS[better])), ENTER)
    assert user.value() == better


def test_answers_are_ranked_by_moving_them(serve):
    user = serve(TASKS["rank"], ["text"])
    shown = user.browser.script("return [...document.querySelectorAll('.ranking .text')].map(one => one.textContent)")
    column = {text: name for name, text in ANSWERS.items()}
    first, second, third = (column[text] for text in shown)
    user.press(UP, SHIFT + UP + UP)  # the last to the top
    user.press("a", "3")
    user.press(ENTER)
    assert user.value() == [third, second, first]


def test_a_selection_by_the_mouse_is_marked_in_characters_as_python_counts(serve):
    text = "😀😀 " + ARABIC + " 😀"
    user = serve(TASKS["span"], [text])
    user.browser.script(
        "const node = document.querySelector('.markable').firstChild, at = node.data.indexOf(arguments[0]);"
        "getSelection().setBaseAndExtent(node, at, node, at + arguments[0].length)",
        "سارة",
    )
    user.press("1")
    user.press(ENTER)
    (span,) = user.value()
    assert text[span["start"] : span["end"]] == "سارة"


def test_arrows_follow_the_direction_of_the_text(serve):
    user = serve(TASKS["span"], [ARABIC])
    assert user.browser.script("return getComputedStyle(document.querySelector('.markable')).direction") == "rtl"
    user.press(LEFT, LEFT, "1", ENTER)
    (span,) = user.value()
    assert ARABIC[span["start"] : span["end"]] == ARABIC.split()[1]


def test_many_labels_are_found_by_their_name(serve):
    labels = [f"intent {at:02d}" for at in range(60)]
    user = serve(TASKS["classify"] | {"labels": labels}, ["one", "two"])
    user.press("/", "t 47", ENTER, ENTER)
    assert user.value() == "intent 47"
    user.press("c", ENTER)  # the twelfth key: digits, then letters
    wait_for(lambda: len(user.answers()) == 2)
    assert sorted(one.value for one in user.answers().values()) == ["intent 11", "intent 47"]


def test_enter_without_a_label_says_so_and_a_held_key_submits_once(serve):
    user = serve(TASKS["classify"], ["one", "two"])
    user.press(ENTER)
    user.sees("#problem", "Choose a label first.")
    user.browser.script(
        "const press = (key, repeat) => document.dispatchEvent(new KeyboardEvent('keydown', {key, repeat}));"
        "press('1', false); press('Enter', false); press('1', false); press('Enter', true); press('Enter', true);"
    )
    user.sees("#count", "1 of 2")
    user.sees_all_saved()
    assert user.words("#problem") == ""
    assert len(user.answers()) == 1


def test_undo_goes_back_with_the_former_label_also_after_a_reload(serve):
    user = serve(TASKS["classify"], ["one", "two", "three"])
    order = texts_of(user.page.round)
    user.press("1" + ENTER + "2" + ENTER)
    user.sees("main .text", order[2])
    user.press("u")
    user.sees("main .text", order[1])
    assert user.browser.script("return document.querySelector(':checked').value") == "login"
    user.press("3", ENTER)
    user.sees("main .text", order[2])
    user.sees_all_saved()
    user.open()
    user.press("u")
    user.sees("main .text", order[1])
    user.press("u")
    user.sees("main .text", order[0])
    user.sees("#count", "0 of 3")
    user.press("2" + ENTER + "2" + ENTER + "2" + ENTER)
    user.sees("#count", "3 of 3")
    wait_for(lambda: [one.value for one in user.answers().values()] == ["login"] * 3)


def test_a_task_is_skipped_with_a_reason_only(serve):
    user = serve(TASKS["classify"], ["one", "two", "three"])
    user.press("s", "2")
    user.sees("#count", "1 of 3")
    user.press("s", ESCAPE)
    assert user.words("#count") == "1 of 3"
    user.press("s", TAB, TAB, TAB, ENTER)
    user.sees("#reason-problem", "Give a reason.")
    user.press("two languages", ENTER)
    user.sees("#count", "2 of 3")
    user.press("s", "u: no text", ENTER)
    user.sees(".centre p", "0 tasks labelled, 3 skipped")
    reasons = {one.reason for one in user.answers().values() if one.status == "skipped"}
    assert reasons == {"The text is damaged or incomplete", "two languages", "u: no text"}


def test_a_draft_comes_back_from_this_browser_and_from_the_server(serve):
    user = serve(TASKS["write"], ["one"])
    user.press("a long ans")
    user.open()
    assert user.browser.script("return document.querySelector('textarea').value") == "a long ans"
    user.press("we")
    wait_for(lambda: [one.value for one in user.answers().values()] == ["a long answe"])
    user.browser.script("localStorage.clear()")
    user.open()
    assert user.browser.script("return document.querySelector('textarea').value") == "a long answe"
    user.press("r", CTRL + ENTER)
    assert user.value() == "a long answer"


def test_no_label_is_lost_while_the_server_is_gone_nor_doubled_when_it_is_back(serve):
    user = serve(TASKS["classify"], [f"text {at}" for at in range(12)], [])
    order = texts_of(user.page.round)
    user.press("1" + ENTER + "1" + ENTER)
    user.sees_all_saved()
    user.sees("#count", "2 of 12")
    user.page.kill()
    user.press("2" + ENTER + "2" + ENTER + "2" + ENTER)
    user.sees("#saving", "Waiting, 3 not sent")
    user.sees("#count", "5 of 12")
    user.press("u")
    user.sees("main .text", order[4])
    user.press("3" + ENTER)
    user.sees("#saving", "Waiting, 5 not sent")  # with the one that was taken back
    user.page.start()
    user.sees("#notice", "Open the address")  # another token
    assert len(user.answers()) == 2
    user.open()
    user.sees_all_saved()
    user.sees("#count", "5 of 12")
    user.sees("main .text", order[5])
    places = {row.id: at for at, row in enumerate(user.page.round.tasks)}
    found = sorted((places[id], one.value) for id, one in user.answers().items())
    assert found == [(0, "billing"), (1, "billing"), (2, "login"), (3, "login"), (4, "other")]
    assert len(user.page.round.answers.read()) == 7


def test_what_waits_is_sent_without_a_reload_once_the_server_answers_again(serve):
    user = serve(TASKS["classify"], [f"text {at}" for at in range(6)])
    cdp = user.browser._driver.execute_cdp_cmd
    cdp("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    cdp("Network.emulateNetworkConditions", offline)
    user.press(("1" + ENTER) * 6)
    user.sees("#saving", "Waiting, 6 not sent")
    user.sees(".centre h2", "Waiting for the server")
    assert user.answers() == {}
    cdp("Network.emulateNetworkConditions", offline | {"offline": False})
    user.sees_all_saved()
    user.sees(".centre h2", "All tasks are done")
    assert len(user.page.round.answers.read()) == 6


def test_a_label_that_is_saved_stays_when_the_page_is_left(serve):
    user = serve(TASKS["classify"], ["one", "two"])
    user.press("1" + ENTER)
    user.sees_all_saved()
    user.browser.visit("about:blank", width=800)
    assert len(user.answers()) == 1


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    sampled(
        product(["classify", "several", "compare", "rank", "correct", "span", "check"], [1280, 375], ["light", "dark"]),
        10,
    ),
)
def test_texts_of_records_are_never_markup_and_every_text_has_contrast(serve, name, width, scheme):
    user = serve(TASKS[name], [HOSTILE], width=width, scheme=scheme)
    shown = user.browser.script(
        "return document.querySelector('main').textContent + (document.querySelector('textarea')?.value ?? '')"
    )
    assert HOSTILE in shown
    user.press("1" if name != "span" else RIGHT + "1")
    assert user.browser.script(
        "return [window.hacked ?? null, document.querySelectorAll('main img, main script').length]"
    ) == [None, 0]
    assert user.browser.script("return [innerWidth, document.documentElement.scrollWidth]") == [width, width]
    assert user.browser.script("return getComputedStyle(document.body.parentElement).backgroundColor") == (
        "rgb(255, 255, 255)" if scheme == "light" else "rgb(21, 24, 28)"
    )
    seen, faint = user.browser.script(LOW_CONTRAST)
    assert seen > 8 and faint == []
    assert user.browser.complaints() == []


def test_right_to_left_texts_and_labels_have_their_direction(serve):
    user = serve(TASKS["classify"] | {"labels": ["فواتير", "دخول"], "question": "أي تصنيف؟"}, [ARABIC])
    for selector in (".question", "main .text", ".choice span[dir]"):
        direction = "return getComputedStyle(document.querySelector(arguments[0])).direction"
        assert user.browser.script(direction, selector) == "rtl"
    left, right = user.browser.script(
        "const range = document.createRange(); range.selectNodeContents(document.querySelector('main .text'));"
        "const box = document.querySelector('main .card').getBoundingClientRect();"
        "const text = range.getBoundingClientRect();"
        "return [text.left - box.left, box.right - text.right]"
    )
    assert right < left


def test_conversations_are_shown_as_turns(serve):
    chat = json.dumps([{"role": "user", "content": "Hello"}, {"role": "assistant", "content": HOSTILE}])
    user = serve(TASKS["classify"], [chat])
    turns = user.browser.script(
        "return [...document.querySelectorAll('.turn')].map(one => [...one.children].map(part => part.textContent))"
    )
    assert turns == [["user", "Hello"], ["assistant", HOSTILE]]


def test_the_guideline_and_the_keys_are_shown_by_a_key(serve, tmp_path):
    (tmp_path / "guide.md").write_text("# Labels\n\nTake **one**. <b>1</b>")
    user = serve(TASKS["classify"] | {"guideline": str(tmp_path / "guide.md")}, ["one", "two"], width=375)
    assert user.words("#guideline") == ""
    user.press("g")
    user.sees("#guideline", "Take one. <b>1</b>")
    user.press("g")
    assert user.words("#guideline") == ""
    user.press("?")
    user.sees("#help", "undo the last label")
    user.press(ESCAPE, "1", ENTER)
    wait_for(user.answers)
    (one,) = user.answers().values()
    assert one.guideline == user.page.round.guideline()[1] != ""


def test_annotators_choose_their_name_and_experts_see_the_votes(serve):
    people = ["ada", "grace", {"name": "eve", "expert": True, "topics": ["none"]}]
    user = serve(
        TASKS["classify"], [f"text {at}" for at in range(6)], annotators=people, overlap=2, expertise="answer_a"
    )
    mine = [row.id for row in user.page.round.tasks if "eve" in row.annotators]
    disputed = next(row.id for row in user.page.round.tasks if "eve" not in row.annotators)
    for name, value in (("ada", "login"), ("grace", "other")):
        at = "2026-11-27T04:00:00Z"
        Client(user.page.url, name).add({"task": disputed, "status": "labelled", "value": value, "at": at})
    user.sees(".centre h2", "Who are you?")
    user.press(TAB, TAB, ENTER)
    user.sees("#who", "eve")
    for _ in mine:
        user.sees(".question")
        assert user.words(".votes") == ""
        user.press("1", ENTER)
    user.sees(".votes", "grace")
    user.press("2", ENTER)
    wait_for(lambda: latest(user.page.round.answers.read()).get((disputed, "eve")))
    user.sees(".centre h2", "All tasks are done")


def test_the_prediction_is_shown_only_if_that_is_asked_for(serve, tmp_path):
    choose = {"count": 1, "probabilities": "p"}
    pq.write_table(pa.table({"id": ["one"], "prompt": ["text"], "p": [[0.2, 0.7, 0.1]]}), tmp_path / "p.parquet")
    more = {"input": str(tmp_path / "p.parquet"), "choose": choose}
    user = serve(TASKS["classify"], ["text"], **more)
    assert user.browser.script("return document.querySelector(':checked')") is None
    user = serve(TASKS["classify"], ["text"], ["--predictions"], **more)
    user.sees(".suggested", "70% certain")
    assert user.browser.script("return document.querySelector(':checked').value") == "login"
