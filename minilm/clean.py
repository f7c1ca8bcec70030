"""From the files of an archive to clean documents, one function a source.

Cleaning decides what a model can learn, so each function lists its steps and takes as few as the source allows: case,
punctuation and line structure stay. All are pure functions of their input, the same under every Python version.
Documents consist of passages separated by a blank line (a speech, a paragraph, a chapter).

Not here: where the files come from (``minilm.archive``) and how documents are split (``minilm.data``).
"""

import bz2
import csv
import html
import io
import json
import re
import unicodedata
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass

import mwparserfromhell
from mwparserfromhell import nodes
from mwparserfromhell.wikicode import Wikicode

Files = list[tuple[str, bytes]]
"""Path inside the archive and content, as ``minilm.archive.members`` gives them."""


@dataclass(frozen=True)
class Document:
    """One work, article, book or file: the unit that a split never cuts."""

    title: str
    text: str


def shakespeare(files: Files) -> list[Document]:
    """Plays and poems: blanks at line ends go, runs of blank lines become one, the title moves out of the text.

    The byline "by William Shakespeare" goes with it. Cast lists, speakers and stage directions stay.
    """
    return [Document(*_title_and_text(content.decode())) for _, content in files]


def _title_and_text(text: str) -> tuple[str, str]:
    lines = [line.rstrip() for line in text.splitlines()]
    body = "\n".join(line for line in lines[1:] if line != "by William Shakespeare")
    return lines[0], re.sub(r"\n{3,}", "\n\n", body).strip()


def kjv(files: Files) -> list[Document]:
    """The books of the King James Version: a verse a line, a blank line between chapters, numbers left out."""
    books: dict[str, dict[int, list[str]]] = {}
    for line in files[0][1].decode().splitlines():
        verse = json.loads(line)
        books.setdefault(verse["book"], {}).setdefault(verse["chapter"], []).append(verse["text"].strip())
    return [Document(title, "\n\n".join(map("\n".join, chapters.values()))) for title, chapters in books.items()]


def catalogue(files: Files) -> list[tuple[str, str]]:
    r"""Translated interface strings as sorted, unique (English, Chinese) pairs, each string on one line.

    From the catalogues of JupyterLab (``{"context\4English": ["Chinese", ...]}``). White space becomes single blanks
    and mnemonics ("&File", "文件(&F)") go. A pair is dropped if it is untranslated (equal, or no Chinese character), if
    the English has no run of three letters, or if either side holds a placeholder, a tag or a code name.
    """
    pairs = set()
    for _, content in files:
        for key, translations in json.loads(content).items():
            english, chinese = _one_line(key.split("\4")[-1]), _one_line(translations[0] if key else "")
            if re.search(r"[\u4e00-\u9fff]", chinese) and re.search("[A-Za-z]{3}", english):
                pairs.add((english, chinese))
    return sorted(pair for pair in pairs if not re.search(r"%\w|%\(|[{}<>`\\]|\w_\w|https?:", " ".join(pair)))


def _one_line(string: str) -> str:
    without_mnemonic = re.sub(r"\(&\w\)|&(?=\w)", "", unicodedata.normalize("NFC", string))
    return " ".join(without_mnemonic.split())


OPENING = 400  # characters of a review; two that begin alike are one
WINDOWS = {byte: bytes([byte]).decode("cp1252", errors="ignore") for byte in range(0x80, 0xA0)}
WINDOWS |= dict.fromkeys(range(0x20), " ")
"""What was meant by control characters that no text holds: dashes, quotes and dots of the Windows code page, or
nothing."""


def reviews(files: Files, source: str) -> list[tuple[str, int]]:
    """Film reviews as (text, class), class 1 for praise, in the order of a table with columns text, label and source.

    Tags become blanks, entities and characters of the Windows code page what they stand for, blanks are joined. A
    review goes if it begins, for ``OPENING`` characters, like one before it; case does not count.
    """
    found: dict[str, tuple[str, int]] = {}
    for row in csv.DictReader(io.StringIO(files[0][1].decode(), newline="")):
        if row["source"] == source:
            text = html.unescape(re.sub(r"</?(?:br|hr|p|i|em|b)\b[^>]*>", " ", row["text"]))
            text = " ".join(unicodedata.normalize("NFC", text.translate(WINDOWS)).split())
            found.setdefault(text[:OPENING].lower(), (text, int(row["label"])))
    return list(found.values())


def news(files: Files) -> list[tuple[str, str]]:
    r"""News as (text, folder) in the order of the files: headline, blank line, paragraphs with a blank line between.

    Blanks within a paragraph are joined; what is not UTF-8 is read in the Windows code page. An article goes if its
    paragraphs are those of one before it; case does not count.

    >>> news([("data/tech/001.txt", b"A headline\n\nOne  paragraph.\n\n\nAnother.\n")])
    [('A headline\n\nOne paragraph.\n\nAnother.', 'tech')]
    """
    found: dict[str, tuple[str, str]] = {}
    for name, content in files:
        lines = [" ".join(line.split()) for line in _decoded(content).split("\n")]
        title, *body = [line for line in lines if line]
        found.setdefault("\n\n".join(body).lower(), ("\n\n".join([title, *body]), name.split("/")[-2]))
    return list(found.values())


def _decoded(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("cp1252")


APPENDIX = re.compile(
    r"references|external links|see also|further reading|notes|notes and references|bibliography|footnotes|sources|"
    r"citations|works|selected works|books",
    re.IGNORECASE,
)
NOT_PROSE = {"ref", "references", "table", "gallery", "math", "source", "syntaxhighlight", "timeline", "imagemap"}
RESIDUE = re.compile(r"^[,;:.)]|\[\[|\]\]|\{[{|]|\}\}|</?[a-z]|\|\|| \|-|\b(?:bgcolor|style|align|thumb)\s?[=|]")
LIST_ITEM = "\0"  # marks the lines of a list, which go; it cannot occur in XML
SPOKEN = {
    "convert": "{} {}",
    "cvt": "{} {}",
    "lang": "{1}",
    "transl": "{1}",
    "as of": "as of {}",
    "quote": "{}",
    "nihongo": "{}",
    "nowrap": "{}",
    "smaller": "{}",
    "angbr": "{}",
    "ipa": "{}",
    "vanchor": "{}",
}
"""Templates that stand for words of the sentence, and how their arguments are read out; every other one goes."""


def wikipedia(files: Files) -> list[Document]:
    """Articles of a MediaWiki dump as paragraphs of prose, each on one line.

    1. Redirects and pages outside the main namespace go; so do documents of less than 100 words (disambiguation).
    2. ``mwparserfromhell`` parses the mark-up. Of links and bold or italic text the words stay; references, tables,
       formulas, galleries, files, categories, comments and templates go, but for those in ``SPOKEN``.
    3. Lists, headings and the appendices ("References", "See also") go.
    4. Blanks are joined, brackets that were left empty go, Unicode is composed (NFC).
    5. Paragraphs of less than 10 words go, and those that lost their beginning or still hold mark-up.
    """
    articles = [Document(title, "\n\n".join(_paragraphs(source))) for title, source in _pages(files[0][1])]
    return sorted((article for article in articles if len(article.text.split()) >= 100), key=lambda a: a.title)


def leads(files: Files) -> dict[str, list[str]]:
    """The paragraphs of each article that stand before its first heading: Wikipedia's own summary of it."""
    return {title: list(_paragraphs(re.split(r"\n==", source, maxsplit=1)[0])) for title, source in _pages(files[0][1])}


def _pages(dump: bytes) -> Iterator[tuple[str, str]]:
    for page in ElementTree.fromstring(bz2.decompress(dump)).iterfind("{*}page"):
        if page.findtext("{*}ns") == "0" and page.find("{*}redirect") is None:
            yield page.findtext("{*}title", ""), page.findtext("{*}revision/{*}text", "")


def _paragraphs(source: str) -> Iterator[str]:
    for block in re.split(r"\n\s*\n", _prose(mwparserfromhell.parse(source))):
        lines = [line for line in block.split("\n") if LIST_ITEM not in line]
        paragraph = _tidy(" ".join(lines))
        if len(paragraph.split()) >= 10 and not RESIDUE.search(paragraph):
            yield paragraph


def _prose(code: Wikicode) -> str:
    """The words of parsed mark-up; what stands under the heading of an appendix goes."""
    words, skipping = [], False
    for node in code.nodes:
        if isinstance(node, nodes.Heading):
            if node.level == 2:
                skipping = bool(APPENDIX.fullmatch(str(node.title).strip()))
            words.append("\n\n")
        elif not skipping:
            words.append(_words(node))
    return "".join(words)


def _words(node: nodes.Node) -> str:
    match node:
        case nodes.Text():
            return str(node)
        case nodes.HTMLEntity():
            return node.normalize()
        case nodes.Wikilink():
            if re.match(r"\s*(file|image|category|media):", str(node.title), re.I):
                return ""
            if node.text is None and re.match(r"[a-z]{2,3}(-[a-z-]+)?:", str(node.title)):
                return ""  # the same article in another language
            return _prose(node.title if node.text is None else node.text)
        case nodes.ExternalLink():
            return _prose(node.title) if node.title is not None else ""
        case nodes.Template():
            return _spoken(node)
        case nodes.Tag():
            name = str(node.tag).lower().strip()
            if name in ("li", "dd", "dt"):
                return LIST_ITEM
            return "" if name in NOT_PROSE else " " if name == "br" else _prose(node.contents or Wikicode([]))
    return ""  # comments and template arguments


def _spoken(template: nodes.Template) -> str:
    form = SPOKEN.get(str(template.name).strip().lower(), "")
    arguments = [_prose(one.value).strip() for one in template.params if not one.showkey]
    return form.format(*arguments, *[""] * 2)


def _tidy(text: str) -> str:
    text = " ".join(unicodedata.normalize("NFC", text).split())
    text = text.replace("'''", "'").replace("''", "")  # quotes the parser could not pair, as in ''Iliad'''s
    text = re.sub(r"(?<=\()[\s,;:/]+|[\s,;:/]+(?=\))", "", text)  # "(; from Greek)" lost its first item
    text = re.sub(r"\(\)|\[\]", "", text)
    return " ".join(re.sub(r"\s+([,.;:])(?=\s|$)", r"\1", text).split())
