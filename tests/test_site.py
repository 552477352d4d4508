"""The documentation site: builds without a warning, has every page, picture and link of the repository, and asks nobody else for
anything. Chromium reads and searches it from files, on screens of both kinds.
"""

import html
import itertools
import os
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.support.chromium import Browser, Page, needs_chromium
from tests.test_docs import DOCS, PAGES, ROOT, blocks, prose

ALL = sorted({*PAGES, *ROOT.glob("*.md")})
PHONE, DESK = (390, 844), (1300, 900)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built like `make docs` does."""
    out = tmp_path_factory.mktemp("site")
    recipe = re.search(r"^docs: build\n\t@\$\(BIN\)/python (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    command = [sys.executable, *recipe[1].split(), "--site-dir", str(out)]
    settings = dict(os.environ, NO_MKDOCS_2_WARNING="1")
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return out


class Read(HTMLParser):
    """What a page of the site has: links, ids, pictures, what it loads, its text outside of code, how many of some elements."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.loads: list[str] = []
        self.images: list[str] = []
        self.text: list[str] = []
        self.cells: list[str] = []
        self.counts: dict[str, int] = {}
        self._stack: list[str] = []
        self._article = False
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids |= {value for name in ("id", "name") if (value := values.get(name))}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"] or "")
        if tag in ("script", "img", "iframe", "source") and values.get("src"):
            self.loads.append(values["src"] or "")
        if tag == "img":
            self.images.append(values.get("src") or "")
        if tag == "link" and values.get("href"):
            self.loads.append(values["href"] or "")
        if tag == "article":
            self._article = True
        if self._article:
            self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag not in ("meta", "link", "img", "br", "hr", "input", "source", "path"):
            self._stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._stack:
            while self._stack.pop() != tag:
                pass
        if tag == "article":
            self._article = False

    def handle_data(self, data: str) -> None:
        if self._article and not {"code", "pre", "script", "style", "h2", "h3"} & {*self._stack}:
            (self.cells if "td" in self._stack else self.text).append(data)


@pytest.fixture(scope="module")
def read(site: Path) -> dict[Path, Read]:
    return {file: Read(file) for file in sorted(site.rglob("*.html"))}


def built(site: Path, page: Path) -> Path:
    """The file of the site for a page of the repository."""
    place = page.relative_to(ROOT)
    return site / (place.with_name("index.html") if place.name == "README.md" else place.with_suffix(".html"))


def is_elsewhere(link: str) -> bool:
    return bool(urlsplit(link).scheme or urlsplit(link).netloc)


def test_every_page_and_every_picture_is_there(site: Path) -> None:
    assert len(ALL) > 50
    assert [page for page in ALL if not built(site, page).is_file()] == []
    pictures = [path for path in DOCS.rglob("*") if path.suffix in (".png", ".svg")]
    assert len(pictures) > 5
    for picture in pictures:
        assert (site / picture.relative_to(ROOT)).read_bytes() == picture.read_bytes()


def test_every_link_leads_to_a_file_and_a_place_in_it(site: Path, read: dict[Path, Read]) -> None:
    seen = 0
    for file, page in read.items():
        if file.name == "404.html":
            # It is shown at any address: its links are those of a site at the root of a server.
            continue
        for link in [*page.links, *page.loads]:
            if is_elsewhere(link):
                continue
            parts = urlsplit(link)
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{file.relative_to(site)}: {link}"
            assert target.is_relative_to(site), link
            if parts.fragment and target.suffix == ".html":
                assert unquote(parts.fragment) in read[target].ids, f"{file.relative_to(site)}: {link}"
            seen += 1
    assert seen > 3000


@pytest.mark.parametrize("page", ALL, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_are_the_same_on_the_site(page: Path, site: Path, read: dict[Path, Read]) -> None:
    """README's among them. A link to a page or a picture leads to it; one to another file leads to a page that shows it."""
    shown = read[built(site, page)]
    here = [urlsplit(link) for link in [*shown.links, *shown.images] if not is_elsewhere(link)]
    there = {(os.path.normpath(shown.file.parent / (link.path or shown.file.name)), link.fragment) for link in here}
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)) if not is_elsewhere(link)]
    for link in links:
        place, _, fragment = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        if target.suffix == ".md":
            file = built(site, target)
        elif target.suffix in (".png", ".svg", ".gz"):
            file = site / target.relative_to(ROOT)
        else:
            file = site / f"{target.relative_to(ROOT)}.html"
            first = target if target.is_file() else next(path for path in sorted(target.rglob("*")) if path.is_file())
            words = re.sub(r"\s+", "", first.read_text())
            code = html.unescape(re.sub(r"<[^>]+>|\s+", "", file.read_text()))
            assert words in code
        assert (str(file), fragment) in there, link
    assert page.name != "README.md" or links


def test_nothing_is_loaded_from_elsewhere(site: Path, read: dict[Path, Read]) -> None:
    assert [(page.file.name, load) for page in read.values() for load in page.loads if is_elsewhere(load)] == []
    for sheet in site.rglob("*.css"):
        for link in re.findall(r"(?:url\(|@import\s)\s*[\"']?([^\"')\s]+)", sheet.read_text()):
            assert link.startswith("data:") or not is_elsewhere(link), f"{sheet.name}: {link}"


def begins_item(line: str, before: str) -> bool:
    """Whether this line begins an item of a list. A number within a paragraph begins none, but for 1 (CommonMark §5.3)."""
    item = r" *(?:[-*]|\d+\.) +\S"
    within = before.strip() != "" and not before.startswith(" ") and not re.match(item, before)
    return re.match(r" *(?:[-*]|1\.) +\S" if within else item, line) is not None


def test_pages_have_the_tables_blocks_and_items_of_their_sources(site: Path, read: dict[Path, Read]) -> None:
    for page in ALL:
        counts = read[built(site, page)].counts
        text = page.read_text()
        plain = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)
        rulers = len(re.findall(r"^\|[ :|]*-[ :|-]*\|$", plain, re.MULTILINE))
        assert counts.get("table", 0) == rulers, page.name
        lines = len(re.findall(r"^\|.*\|$", plain, re.MULTILINE))
        assert counts.get("tr", 0) == lines - rulers, page.name
        fences = len(re.findall(r"^ *```", text, re.MULTILINE)) // 2
        # A block of code that is only indented: the first line of each.
        indented = len(re.findall(r"(?<=\n\n)    \S", plain))
        assert fences <= counts.get("pre", 0) <= fences + indented, page.name
        items = [line for before, line in itertools.pairwise(["", *plain.splitlines()]) if begins_item(line, before)]
        assert counts.get("li", 0) == len(items), page.name


def test_no_markup_is_left_in_the_text(read: dict[Path, Read]) -> None:
    markup = r"```|\]\(|^\s*\|.*\|\s*$|\*\*"
    for page in read.values():
        for text in page.cells:
            assert not re.search(markup, text), f"{page.file}: {text!r}"
        for text in page.text:
            assert not re.search(rf"{markup}|(?:^|\n)(?:[-*]|1\.) ", text), f"{page.file}: {text!r}"


def test_every_page_is_in_the_navigation_of_the_first(site: Path, read: dict[Path, Read]) -> None:
    home = read[site / "index.html"]
    linked = {os.path.normpath(site / urlsplit(link).path) for link in home.links if not is_elsewhere(link) and urlsplit(link).path}
    assert {str(built(site, page)) for page in ALL} - linked - {str(site / "index.html")} == set()


def test_the_theme_is_held_to_the_series_that_is_tested() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    assert {"include-group": "site"} in groups["dev"]
    assert all("<" in requirement for requirement in groups["site"])


# ------------------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    # No name has an address: a page that asks another machine for something fails visibly.
    with Browser(tmp_path_factory.mktemp("chromium"), "--host-resolver-rules=MAP * ~NOTFOUND") as running:
        yield running


def opened(browser: Browser, file: Path, *, phone: bool = False, dark: bool = False) -> Page:
    width, height = PHONE if phone else DESK
    page = browser.page(file.as_uri(), width=width, height=height, phone=phone, dark=dark)
    page.until("document.querySelector('.md-content') !== null")
    return page


@needs_chromium
@pytest.mark.parametrize("phone", [False, True], ids=["desktop", "phone"])
def test_pages_fit_the_screen_in_light_and_dark(site: Path, browser: Browser, phone: bool) -> None:
    colors = set()
    for dark in (False, True):
        for place in ("index", "docs/reference/protocol", "docs/explanation/performance", "docs/howto/http3"):
            name = f"{place}.html"
            page = opened(browser, site / name, phone=phone, dark=dark)
            assert page.value("document.documentElement.scrollWidth <= innerWidth"), name
            colors.add((dark, page.value("getComputedStyle(document.body).backgroundColor")))
            assert page.value("[...document.images].every(image => image.complete && image.naturalWidth > 0)"), name
            assert page.complaints() == []
            page.close()
    assert len(colors) == 2
    sums = {dark: sum(map(int, re.findall(r"\d+", color)[:3])) for dark, color in colors}
    assert sums[True] < 300 < 700 < sums[False]


@needs_chromium
def test_the_search_finds_a_page_without_a_server(site: Path, browser: Browser) -> None:
    page = opened(browser, site / "index.html")
    page.until("typeof __index === 'object' || document.querySelector('[data-md-component=search]') !== null")
    page.value(
        "(() => { const field = document.querySelector('[data-md-component=search-query]'); field.focus();"
        " field.value = 'falseticker'; field.dispatchEvent(new Event('input', {bubbles: true}));"
        " field.dispatchEvent(new KeyboardEvent('keyup', {bubbles: true})); })()"
    )
    links = page.until(
        "(links => links.length && links)([...document.querySelectorAll('.md-search-result__link')].map(link => link.href))"
    )
    targets = {Path(unquote(urlsplit(link).path)) for link in links}
    assert all(target.is_file() and target.is_relative_to(site) for target in targets)
    assert any("falseticker" in target.read_text().lower() for target in targets)
    assert page.complaints() == []


@needs_chromium
def test_the_reader_may_choose_the_colors(site: Path, browser: Browser) -> None:
    page = opened(browser, site / "index.html")
    scheme = "document.body.getAttribute('data-md-color-scheme')"
    before = page.value(scheme)
    seen = set()
    for _ in range(3):
        page.value("[...document.querySelectorAll('[data-md-component=palette] label')].find(label => !label.hidden).click()")
        seen.add(page.value(scheme))
    assert before == "default"
    assert seen == {"default", "slate"}


def test_the_blocks_of_commands_are_shown_as_they_are(site: Path) -> None:
    page = DOCS / "howto" / "decrypt-with-wireshark.md"
    text = html.unescape(re.sub(r"<[^>]+>", "", built(site, page).read_text()))
    found = blocks(page, "console")
    assert len(found) > 5
    assert all(block.text in text for block in found)
