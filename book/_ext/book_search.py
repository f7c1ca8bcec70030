"""Search that works from disk and for Chinese.

A run of Han characters has no spaces, so it is indexed as its pairs, and the browser cuts a query the same way. A page
opened from disk may not fetch another, so the text that results quote is written into a script that they load.
"""

import json
import re
from html import escape
from pathlib import Path

from bs4 import BeautifulSoup, Tag
from docutils import nodes
from sphinx import search
from sphinx.application import Sphinx
from sphinx.search.en import SearchEnglish

RUN = re.compile(r"[\u3400-\u9fff]+|[^\W\u3400-\u9fff]+")


class BookSearch(SearchEnglish):
    """English words, and the characters and pairs of a Han run."""

    js_splitter_code = r"""
var splitQuery = (query) =>
  (query.match(/[\u3400-\u9fff]+|((?![\u3400-\u9fff])[\p{Letter}\p{Number}_])+/gu) || []).flatMap((run) =>
    /^[\u3400-\u9fff]{3}/.test(run) ? [...run].slice(1).map((after, i) => run[i] + after) : [run]);
"""

    def split(self, input: str) -> list[str]:
        """The words that the index knows a text by."""
        runs = RUN.findall(input)
        pairs = [run[i : i + n] for run in runs if run[0] >= "\u3400" for n in (1, 2) for i in range(len(run))]
        return runs + pairs


def plain(article: Tag) -> str:
    """An article's text in the only HTML that quoting needs: its sections, which results link to."""
    for tag in article.select("script, style, .headerlink"):
        tag.decompose()

    def walk(tag: Tag) -> str:
        parts = (walk(one) if isinstance(one, Tag) else escape(str(one), quote=False) for one in tag.children)
        text = "".join(parts)
        return f'<section id="{tag["id"]}">{text}</section>' if tag.name == "section" and tag.get("id") else text

    return f'<div role="main">{" ".join(walk(article).split())}</div>'


def quote(app: Sphinx, error: Exception | None) -> None:
    """Writes ``_static/pagetext.js``: page -> its text."""
    if error or app.builder.name != "html":
        return
    pages = {}
    for name in sorted(app.env.found_docs):
        page = BeautifulSoup(Path(app.outdir, name + ".html").read_text("utf-8"), "html.parser")
        pages[name + ".html"] = plain(page.find("article"))
    script = f"const PAGE_TEXT = {json.dumps(pages, ensure_ascii=False)};\n"
    Path(app.outdir, "_static", "pagetext.js").write_text(script, "utf-8")


def load(app: Sphinx, page: str, template: str, context: dict, doctree: nodes.document | None) -> None:
    """Loads that script on the search page."""
    if page == "search":
        app.add_js_file("pagetext.js")


def setup(app: Sphinx) -> dict[str, bool]:
    search.languages["en"] = BookSearch
    app.connect("build-finished", quote)
    app.connect("html-page-context", load)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
