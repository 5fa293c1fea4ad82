"""What every page must be in a browser: quiet, as wide as the window, and readable."""

from pathlib import Path

from tests.support.browser import Browser

OPEN_ALL = "for (const fold of document.querySelectorAll('details')) fold.open = true;"


# WCAG 2.2, 1.4.3: the contrast of every visible text with what is painted behind it.
LOW_CONTRAST = """
const parse = c => { const n = c.match(/[\\d.]+/g).map(Number); return [n[0], n[1], n[2], n.length > 3 ? n[3] : 1]; };
const over = (top, under) => top.slice(0, 3).map((v, i) => v * top[3] + under[i] * (1 - top[3]));
const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = e => { const layers = [];
  for (; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
  return layers.reverse().reduce((under, layer) => over(layer, under), [255, 255, 255]); };
const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
let seen = 0;
while (walker.nextNode()) {
  const e = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || ['SCRIPT', 'title'].includes(e.tagName) || !e.checkVisibility()) continue;
  const style = getComputedStyle(e), ground = behind(e);
  const ink = over(parse(e instanceof SVGElement ? style.fill : style.color), ground);
  const [a, b] = [light(ink), light(ground)].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
  seen++;
  const what = `${e.tagName}.${e.className.baseVal ?? e.className}`;
  if (ratio < 4.5) found.push(`${what} ${ratio.toFixed(2)} ${walker.currentNode.data.slice(0, 30)}`);
}
return [seen, found];
"""


def assert_is_quiet(browser: Browser, page: Path, scheme: str) -> None:
    """The page runs no script, loads nothing, and is never wider than the window."""
    browser.open(page, width=1440, scheme=scheme)
    browser.script(OPEN_ALL)
    for width in (1440, 768, 360):
        browser.resize(width)
        assert browser.script("return [innerWidth, document.documentElement.scrollWidth]") == [width, width]
    assert browser.script("return window.hacked") is None
    assert browser.complaints() == []
    assert browser.requests() == [page.as_uri()]


def assert_has_contrast(browser: Browser, page: Path, scheme: str, at_least: int) -> None:
    """`at_least` texts or more are visible on the page, and each has the contrast that WCAG asks for."""
    browser.open(page, width=768, scheme=scheme)
    browser.script(OPEN_ALL)
    seen, faint = browser.script(LOW_CONTRAST)
    assert seen > at_least
    assert faint == []
