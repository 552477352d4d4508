"""The documentation site: a hook of MkDocs (mkdocs.yml), which `make docs` runs.

Comes in: the pages of the repository where they are, README.md first. Goes out: a site with the same tree, so that each link of a
page leads to the same place as in the repository. It must never change what a page says.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
INDEX = "docs/index.md"
# README.md is the first page of all.
PROJECT = [*sorted(path.name for path in ROOT.glob("*.md") if path.name != "README.md"), "tests/vectors/README.md"]
SECTIONS = {
    "Tutorials": "docs/tutorial/", "How to": "docs/howto/", "Reference": "docs/reference/", "Explanations": "docs/explanation/",
}  # fmt: skip
COPIED = (".png", ".svg", ".js", ".css", ".gz")
_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
_FENCE = re.compile(r"(```+)(\w*)[^`\n]*")
_ITEM = re.compile(r"(?:[-*]|\d+\.) +")
# Files that are linked are shown as pages, with a highlighter where there is one for them.
_LANGUAGES = {
    ".h": "c", ".toml": "toml", ".service": "ini", ".socket": "ini", ".timer": "ini", ".yaml": "yaml", ".yml": "yaml",
}  # fmt: skip


def pages() -> list[str]:
    """The Markdown pages of the site."""
    return ["README.md", *PROJECT, *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]


def linked(page: str) -> Iterable[str]:
    """Paths in the repository that a page links to."""
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for match in _LINK.finditer(text):
        if not re.match(r"\w+:", match[2]):
            yield str(((ROOT / page).parent / match[2]).resolve().relative_to(ROOT))


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The order of the pages is that of docs/index.md."""
    order = list(dict.fromkeys(linked(INDEX)))
    config.nav = [
        {"TSQ": "README.md"},
        {"What to read": INDEX},
        *({title: [page for page in order if page.startswith(place)]} for title, place in SECTIONS.items()),
        {"Project": PROJECT},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The pages, pictures and linked files, each where it is in the repository. What the theme adds stays."""
    kept = [file for file in files if not (config.docs_dir and file.src_dir == config.docs_dir)]
    places = pages()
    places += [str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*")) if path.suffix in COPIED]
    found = Files([*kept, *(File.generated(config, place, abs_src_path=str(ROOT / place)) for place in places)])
    for place in sorted({target for page in pages() for target in linked(page)} - set(places)):
        shown = File.generated(config, f"{place}.md", content=listing(ROOT / place), inclusion=InclusionLevel.NOT_IN_NAV)
        found.append(shown)
    return found


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The same page, as Python-Markdown needs it where it differs from what the repository's pages are written in."""
    del config
    here = (ROOT / page.file.src_uri).parent

    def to_page(match: re.Match[str]) -> str:
        target = (here / match[2]).resolve()
        is_listing = target.is_relative_to(ROOT) and files.get_file_from_path(f"{target.relative_to(ROOT)}.md") is not None
        return f"{match[1]}{match[2]}{'.md' if is_listing else ''}{match[3] or ''}{match[4]}"

    out: list[str] = []
    for line, in_code in indented(markdown.splitlines()):
        out += [line] if in_code else [*blank_before(line, out), _LINK.sub(to_page, line)]
    return "\n".join(out)


def indented(lines: list[str]) -> Iterable[tuple[str, bool]]:
    """The lines, and whether each is code. What belongs to an item of a list has 4 spaces; a fence names its language only."""
    fence, width = "", 0
    for line in lines:
        text = line.lstrip()
        inside = bool(width) and (not text or line.startswith(" " * width))
        prefix = " " * 4 if inside and text else ""
        body = line[width:] if inside and text else line
        start = _FENCE.fullmatch(text)
        if fence:
            if text.startswith(fence):
                fence = ""
            yield prefix + body, True
        elif start:
            fence = start[1]
            width = width if inside else 0
            yield f"{prefix}{body[: len(body) - len(text)] if body.endswith(text) else ''}{start[1]}{start[2]}", True
        else:
            if item := _ITEM.match(line):
                width = len(item[0])
            elif text and not line.startswith(" "):
                width = 0
            yield prefix + body, False


def blank_before(line: str, before: list[str]) -> list[str]:
    """A blank line before a list or a table that follows a paragraph at once, and after an item of several paragraphs."""
    last = before[-1] if before else ""
    begins = re.match(r"[-*] |1\. ", line) and not re.match(r" |[-*] |\d+\. ", last)
    begins = begins or (bool(re.fullmatch(r"\|.*\|", line)) and not last.startswith("|"))
    if _ITEM.match(line) and last.startswith(" "):
        item = next((at for at in range(len(before) - 1, -1, -1) if _ITEM.match(before[at])), len(before))
        begins = begins or "" in before[item:]
    return [""] if begins and last.strip() else []


def listing(path: Path) -> str:
    """A page that shows a file, or the files of a directory."""
    name = path.relative_to(ROOT)
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    out = ["---", "search:", "  exclude: true", "---", f"# {name}", ""]
    for file in files:
        text = file.read_text(encoding="utf-8")
        fence = "`" * max(4, *(len(run) + 1 for run in re.findall("`+", text) or [""]))
        out += [f"## {file.relative_to(path)}", ""] if path.is_dir() else []
        out += [f"{fence}{_LANGUAGES.get(file.suffix, 'text')}", text.rstrip("\n"), fence, ""]
    return "\n".join(out)
