"""Repairs to the tools: upstream faults, MathJax from disk, and a front door.

Nothing here knows what the book says; ``book_pages`` does.
"""

import re
from importlib.metadata import distribution
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.fileutil import copy_asset

# A plain redirect would do for a browser; a reader's screen reader wants a title and a link.
FRONT_DOOR = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="refresh" content="0; url={page}"></head>
<body><main><h1>{title}</h1><p><a href="{page}">Open the book</a></p></main></body></html>
"""

NUMBER = re.compile(r"(\d[\d.,]*(?: %|e[-+]\d+))")
"""What a line must not end in the middle of: 95 %, 2.2e-16."""

APART = (nodes.literal, nodes.math, nodes.raw, nodes.FixedTextElement, nodes.inline)
"""Where a text stays as it is."""


def repair(app: Sphinx, config: Config) -> None:
    """sphinx-exercise hides every html handler from the single-page builders; Thebe's script is declared twice."""
    handlers = app.registry.translation_handlers
    for builder in {"singlehtml", "epub"} & handlers.keys():
        handlers[builder] = {**handlers.get("html", {}), **handlers[builder]}
    for event in ("env-before-read-docs", "doctree-resolved"):
        listeners = app.events.listeners.get(event, [])
        app.events.listeners[event] = [one for one in listeners if one.handler.__module__ != "sphinx_thebe"]


def keep_together(app: Sphinx, doctree: nodes.document, name: str) -> None:
    """A formula with the full stop after it, and each number, go into a span: a browser would break the line there."""
    for formula in list(doctree.findall(nodes.math)):
        after = formula.next_node(descend=False, siblings=True)
        if isinstance(after, nodes.Text) and after.startswith(tuple(".,;:?)’”")):
            after.parent.replace(after, nodes.Text(after[1:]))
            both = nodes.inline(classes=["together"])
            formula.replace_self(both)
            both += [formula, nodes.Text(after[0])]
    for text in list(doctree.findall(nodes.Text)):
        if NUMBER.search(text) and not isinstance(text.parent, APART):
            text.parent.replace(text, [
                nodes.inline("", part, classes=["together"]) if NUMBER.fullmatch(part) else nodes.Text(part)
                for part in NUMBER.split(text) if part
            ])  # fmt: skip


def always_the_cover(app: Sphinx, *_: object) -> list[str]:
    """One page is read anew every time: with none, Sphinx would not notice that the style sheet has changed."""
    return [app.config.root_doc]


def finish(app: Sphinx, error: Exception | None) -> None:
    """Copies the 1.6 MB of MathJax that a page needs (of 24), drops stale pages and writes ``index.html``."""
    if error or app.builder.name != "html":
        return
    package = Path(distribution("sphinx-mathjax-offline").locate_file("sphinx-mathjax-offline/static/mathjax"))
    target = Path(app.outdir, "_static", "mathjax")
    copy_asset(package / "tex-mml-chtml.js", target)
    copy_asset(package / "output/chtml/fonts/woff-v2", target / "output/chtml/fonts/woff-v2")
    wanted = {f"{name}.html" for name in (*app.env.found_docs, "search")}
    for page in Path(app.outdir).rglob("*.html"):  # pages of an earlier build that the book has no more
        name = page.relative_to(app.outdir).as_posix()
        if name not in wanted and not name.startswith("_static/"):
            page.unlink()
    page = app.builder.get_target_uri(app.config.root_doc)
    Path(app.outdir, "index.html").write_text(FRONT_DOOR.format(title=app.config.html_title, page=page), "utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", repair, priority=999)
    app.connect("env-get-outdated", always_the_cover)
    app.connect("doctree-resolved", keep_together)
    app.connect("build-finished", finish, priority=1)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
