"""What the book promises about its pages, kept while it is built.

- A notebook cell whose figure name starts with ``tab-`` and whose output is a Markdown table becomes a numbered table.
- A picture without alt text, a figure or a table without a caption is a warning, and warnings stop the build.
- Markup that screen readers stumble over is set right.
"""

from pathlib import Path
from zlib import crc32

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

logger = logging.getLogger(__name__)


class TableFigures(SphinxTransform):
    """``figure(name="tab-x", caption)`` around a table -> ``table(title=caption)``, so that it counts as a table."""

    default_priority = 5

    def apply(self, **kwargs: object) -> None:
        """Lifts each table out of its figure and hands it the name and the caption."""
        for figure in list(self.document.findall(nodes.figure)):
            name = next((name for name in figure["names"] if name.startswith("tab-")), None)
            if name is None:
                continue
            table, caption = next(figure.findall(nodes.table), None), next(figure.findall(nodes.caption), None)
            if table is None or caption is None:
                logger.warning("%s: a cell named tab- needs a Markdown table and a caption", name, location=figure)
                continue
            table.insert(0, nodes.title(caption.rawsource, "", *caption.children))
            table["ids"], table["names"] = figure["ids"], figure["names"]
            for known in table["ids"]:
                self.document.ids[known] = table
            figure.replace_self(table)


class Promises(SphinxTransform):
    """Alt text on every picture, a caption on every figure and table; names for solutions and the cover; unique ids."""

    default_priority = 900

    def apply(self, **kwargs: object) -> None:
        """Warns where a promise is broken."""
        for image in self.document.findall(nodes.image):
            if not image.get("alt", "").strip():
                logger.warning("picture without alt text: %s", image.get("uri"), location=image)
        for figure in self.document.findall(nodes.figure):
            if not any(isinstance(child, nodes.caption) for child in figure):
                logger.warning("figure without a caption", location=figure)
        for table in self.document.findall(nodes.table):
            if not any(isinstance(child, nodes.title) for child in table):
                logger.warning("table without a caption", location=table)
        for section in self.document.findall(nodes.section):
            if section["ids"][:1] in (["exercise-content"], ["proof-content"]):  # the same on every box of a page
                section["ids"] = [f"{section.parent['ids'][0]}-content"]
        proofs = [one for one in self.document.findall(nodes.Admonition) if one.get("ids") == ["proof"]]
        for number, proof in enumerate(proofs, 1):
            proof["ids"] = [f"proof-{number}"]
        for cell in self.document.findall(nodes.container):
            if "tag_solution" in cell["classes"]:
                cell["prompt_show"], cell["prompt_hide"] = "Show a solution", "Hide the solution"
        if self.env.docname == self.config.root_doc:
            next(self.document.findall(nodes.section))["classes"].append("cover")


def readable(app: Sphinx, page: str, template: str, context: dict, doctree: nodes.document | None) -> None:
    """A hidden cell's switch is called what it says; an entry of the bibliography is a list item."""
    body = context.get("body", "")
    body = body.replace('<summary aria-label="Toggle hidden content">', "<summary>")
    context["body"] = body.replace('role="doc-biblioentry"', 'role="listitem"')


def setup(app: Sphinx) -> dict[str, bool | int]:
    app.add_transform(TableFigures)
    app.add_transform(Promises)
    app.connect("html-page-context", readable)
    version = crc32(Path(__file__).read_bytes())  # a change here reads every page again
    return {"env_version": version, "parallel_read_safe": True, "parallel_write_safe": True}
