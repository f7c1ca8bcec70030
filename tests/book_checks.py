"""What the book promises, as functions from a folder to a list of broken promises; ``test_book.py`` calls them.

They take a folder so that the tests can also break a copy on purpose and see that it is noticed.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import jupytext
import nbformat
from bs4 import BeautifulSoup, Tag
from nbformat import NotebookNode

# Markup that a page would show only if it was not understood.
LEFTOVER = re.compile(
    r"\{(?:numref|ref|eq|cite|term|doc|glue|prf)[^}]*\}|^:::|^```|\?\?|\[\?\]|\(eq-[\w-]+\)", re.MULTILINE
)
PICTURES = {"image/svg+xml", "image/png", "image/jpeg"}


def notebook_problems(folder: Path) -> list[str]:
    """Pairs in sync, everything run and without error, pictures described, cells short, a header that orients."""
    stems = {path.stem for path in [*folder.glob("*.py"), *folder.glob("*.ipynb")]}
    return [f"{stem}: {problem}" for stem in sorted(stems) for problem in pair_problems(folder, stem)]


def pair_problems(folder: Path, stem: str) -> Iterator[str]:
    """The broken promises of one notebook and its text twin."""
    source, stored = folder / f"{stem}.py", folder / f"{stem}.ipynb"
    if not (source.exists() and stored.exists()):
        yield "has no twin; run make notebooks"
        return
    text, notebook = jupytext.read(source), nbformat.read(stored, as_version=4)
    if [essence(cell) for cell in text.cells] != [essence(cell) for cell in notebook.cells]:
        yield "text and notebook differ; the text is the source, run make notebooks"
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3" or "language_info" in notebook.metadata:
        yield "metadata is not what make notebooks writes"
    yield from header_problems(notebook)
    yield from exercise_problems(notebook)
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            yield from (f"cell {number}: {problem}" for problem in cell_problems(cell))


def essence(cell: NotebookNode) -> tuple[str, str, dict]:
    """What the text twin holds of a cell."""
    return cell.cell_type, cell.source, dict(cell.metadata)


def header_problems(notebook: NotebookNode) -> Iterator[str]:
    """A notebook opens with a label, a title, a question and the minutes it takes."""
    opening = "\n".join(cell.source for cell in notebook.cells[:2] if cell.cell_type == "markdown")
    for promise, pattern in {
        "a label such as (ch-text)=": r"\A\((ch|app)-[\w-]+\)=\n# \S",
        "a question": r"\?",
        "the minutes it takes": r"\bminutes?\b",
    }.items():
        if not re.search(pattern, opening):
            yield f"does not open with {promise}"


def exercise_problems(notebook: NotebookNode) -> Iterator[str]:
    """Every exercise stub is followed by its solution, then by its check; no solution stands open."""
    roles = [role for cell in notebook.cells for role in ("exercise", "solution", "check") if role in tags(cell)]
    if not re.fullmatch(r"(exercise (solution )+(check )+)*", "".join(f"{role} " for role in roles)):
        yield f"exercise, solution and check cells are out of order: {' '.join(roles)}"
    for number, cell in enumerate(notebook.cells):
        if "solution" in tags(cell) and "hide-cell" not in tags(cell):
            yield f"cell {number}: a solution needs the tag hide-cell"


def tags(cell: NotebookNode) -> list[str]:
    """The tags of a cell."""
    return cell.metadata.get("tags", [])


def cell_problems(cell: NotebookNode) -> Iterator[str]:
    """Run, without error or complaint, at most 20 lines beside imports, and what it shows is named and described."""
    if cell.source.strip() and cell.execution_count is None:
        yield "was not run"
    lines = [line for line in cell.source.splitlines() if line.strip() and not line.startswith(("import ", "from "))]
    if len(lines) > 20:
        yield f"has {len(lines)} lines; move what is long into minilm"
    figure = cell.metadata.get("mystnb", {}).get("figure", {})
    for output in cell.outputs:
        shown = set(output.get("data", ()))
        if output.output_type == "error" and "raises-exception" not in tags(cell):
            yield f"stores an error: {output.ename}"
        if output.get("name") == "stderr":
            yield "stores what went to standard error"
        if shown & PICTURES and not cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "").strip():
            yield "shows a picture without alt text"
        table = "text/html" in shown or "|" in output.get("data", {}).get("text/markdown", "")
        if (shown & PICTURES or table) and not (figure.get("name") and figure.get("caption")):
            yield "shows a picture or a table without name or caption"


def pages(site: Path) -> list[Path]:
    """The pages of the site, the front door included."""
    return sorted(page for page in site.rglob("*.html") if "_static" not in page.relative_to(site).parts)


def site_problems(site: Path) -> list[str]:
    """Links and anchors lead somewhere, nothing comes from elsewhere, everything shown is named, nothing is raw."""
    parsed = {page.resolve(): BeautifulSoup(page.read_text("utf-8"), "html.parser") for page in pages(site)}
    anchors = {page: {tag["id"] for tag in soup.find_all(id=True)} for page, soup in parsed.items()}
    found = []
    for page, soup in parsed.items():
        problems = [*link_problems(page, soup, anchors), *content_problems(soup), *raw_problems(soup)]
        found += [f"{page.relative_to(site.resolve())}: {problem}" for problem in problems]
    return found


def link_problems(page: Path, soup: BeautifulSoup, anchors: dict[Path, set[str]]) -> Iterator[str]:
    """Every address on a page: files and anchors exist; other hosts are linked to, never loaded from."""
    for tag in soup.find_all(["a", "link", "img", "script", "iframe", "source"]):
        address = tag.get("href") or tag.get("src") or ""
        parts = urlsplit(address)
        if parts.scheme in ("http", "https"):
            if tag.name != "a":
                yield f"loads {address}"
            elif not re.fullmatch(r"[\w.-]+\.[a-z]{2,}(:\d+)?", parts.netloc) or " " in address:
                yield f"malformed link {address}"
        elif parts.scheme not in ("", "mailto", "data"):
            yield f"unknown kind of link {address}"
        elif parts.scheme == "" and address:
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not target.exists():
                yield f"dead link {address}"
            elif parts.fragment and target in anchors and unquote(parts.fragment) not in anchors[target]:
                yield f"dead anchor {address}"


def content_problems(soup: BeautifulSoup) -> Iterator[str]:
    """Title, headings, alt text, captions, and ids that occur once."""
    if not (soup.title and soup.title.get_text(strip=True)):
        yield "page without a title"
    ids = [tag["id"] for tag in soup.find_all(id=True)]
    yield from (f"id {one!r} occurs twice" for one in sorted({one for one in ids if ids.count(one) > 1}))
    yield from (f"picture without alt text: {tag.get('src')}" for tag in soup.find_all("img") if not alt(tag))
    for tag in soup.find_all("svg"):
        if tag.get("aria-hidden") != "true" and not (tag.get("aria-label") or tag.find("title")):
            yield "drawing without a name"
    article = soup.find("article") or soup.find("main") or soup
    if len(article.find_all("h1")) != 1:
        yield f"{len(article.find_all('h1'))} first-level headings"
    for kind, caption in (("figure", "figcaption"), ("table", "caption")):
        for tag in article.find_all(kind):
            if not (tag.find(caption) and tag.find(caption).select_one(".caption-text")):
                yield f"{kind} without a caption: {tag.get('id', tag.get_text(' ', strip=True)[:60])}"


def alt(tag: Tag) -> str:
    """The alt text of a picture."""
    return str(tag.get("alt", "")).strip()


def raw_problems(soup: BeautifulSoup) -> Iterator[str]:
    """References that did not resolve and directives that were not understood."""
    article = soup.find("article")
    if article is None:
        return
    for tag in article.select(".xref"):
        if tag.find_parent("a") is None:
            yield f"unresolved reference {tag.get_text()!r}"
    yield from (
        f"message of the renderer: {tag.get_text(' ', strip=True)[:80]}"
        for tag in article.select(".system-message, .problematic")
    )
    for tag in article.select("pre, code, .math, script"):
        tag.decompose()
    yield from (f"raw markup {match!r}" for match in LEFTOVER.findall(article.get_text()))
