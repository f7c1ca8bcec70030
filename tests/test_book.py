"""The promises of the pages: checked on what `make book` wrote, and seen to fail on copies broken on purpose."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jupytext
import nbformat
import pytest
from book_checks import notebook_problems, pages, site_problems
from execute import read, store
from student import nbgrader, release, student_version

ROOT = Path(__file__).parents[1]
SITE = ROOT / "_build" / "html"
NOTEBOOKS = ROOT / "notebooks"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")

TOY = '''# %% [markdown]
# (ch-toy)=
# # A toy
#
# **Question.** How many? **Time**: 1 minute.

# %%
print("about", 0.123)

# %% mystnb={"figure": {"name": "fig-toy", "caption": "A line."}, "image": {"alt": "A line that rises."}}
from IPython.display import SVG, display
display(SVG("<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 9 9'><path d='M0 9L9 0' stroke='#000'/></svg>"))

# %% [markdown]
# ```{exercise} Double
# :label: ex-double
# Write `double`.
# ```

# %% tags=["exercise"]
def double(x: int) -> int:
    """Twice `x`."""
    raise NotImplementedError("your turn")

# %% tags=["solution", "hide-cell"]
def double(x: int) -> int:
    """Twice `x`."""
    return 2 * x

# %% tags=["check"]
assert double(2) == 4
assert double(-3) == -6
'''


def missing(what: str) -> None:
    """Skips on a desk, fails where CI promises everything."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(what)


# The notebooks as they are


def test_notebooks_keep_their_promises() -> None:
    assert notebook_problems(NOTEBOOKS) == []


def test_student_notebooks_hold_no_solution_and_no_output() -> None:
    for source in NOTEBOOKS.glob("*.py"):
        notebook = student_version(read(source))
        assert not [cell for cell in notebook.cells if "solution" in cell.metadata.get("tags", [])]
        assert not [cell for cell in notebook.cells if cell.get("outputs")]
        ids = [cell.metadata["nbgrader"]["grade_id"] for cell in notebook.cells if "nbgrader" in cell.metadata]
        assert len(ids) == len(set(ids)), f"{source.stem}: each exercise needs a label of its own"


# The pages as they are


@pytest.fixture(scope="module")
def site() -> Path:
    """The rendered book."""
    if not (SITE / "index.html").exists():
        missing("the book is not rendered: run make book")
    return SITE


@pytest.mark.slow
def test_pages_keep_their_promises(site: Path) -> None:
    assert site_problems(site) == []


@pytest.mark.slow
def test_site_is_small(site: Path) -> None:
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) < 60e6


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Chromium from the system, so that nothing is downloaded."""
    found = os.environ.get("MINILM_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    found = found or (str(MAC) if MAC.exists() else None)
    if found is None:
        missing("no browser: install Chromium or name one in MINILM_BROWSER")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, site: Path) -> Iterator:
    """Opens a page from disk and watches it: `visit(page)`, then `visit.complaints`."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
    complaints: list[str] = []
    local = ("file:", "data:", "blob:")
    tab.on("request", lambda one: None if one.url.startswith(local) else complaints.append(f"request to {one.url}"))
    tab.on("requestfailed", lambda one: complaints.append(f"cannot load {one.url}"))
    tab.on("console", lambda one: complaints.append(f"console: {one.text}") if one.type == "error" else None)
    tab.on("pageerror", lambda error: complaints.append(f"script error: {error}"))

    def visit(address: str):
        tab.goto(f"file://{site}/{address}")
        tab.wait_for_load_state("load")
        tab.evaluate("window.MathJax ? MathJax.startup.promise : null")
        return tab

    visit.tab, visit.complaints = tab, complaints
    yield visit
    tab.close()


CUT_OFF = """() => [...document.querySelectorAll("body *")].filter((one) => one.checkVisibility() &&
  one.getBoundingClientRect().right > innerWidth + 1 &&
  !one.closest("pre, mjx-container, .pst-scrollable-table-container, [class*=bd-sidebar], dialog"))
  .slice(0, 3).map((one) => one.outerHTML.slice(0, 80))"""


# A full stop that has lost its formula stands to the left of the formula's end, at the start of the next line.
STRAY = """() => [...document.querySelectorAll("span.math")].map((one) => [one, one.nextSibling])
  .filter(([one, after]) => one.checkVisibility() && after?.nodeType === 3 && /^[.,;:?)]/.test(after.data))
  .filter(([one, after]) => { const mark = new Range(); mark.setStart(after, 0); mark.setEnd(after, 1);
    return mark.getBoundingClientRect().left < one.lastElementChild.getBoundingClientRect().right - 2; })
  .slice(0, 3).map(([one]) => one.parentElement.textContent.slice(0, 80))"""


# A number, such as 95 % or 2.2e-16, begins on one line and ends on the next.
CUT = """() => {
  const found = [], texts = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  for (let text; text = texts.nextNode();) {
    if (text.parentElement.closest("pre, code, script, svg") || !text.parentElement.checkVisibility()) continue;
    for (const number of text.data.matchAll(/[0-9][0-9.,]*( %|e[-+][0-9]+)/g)) {
      const box = new Range(), start = number.index;
      box.setStart(text, start); box.setEnd(text, start + number[0].length);
      if (box.getClientRects().length > 1) found.push(text.data.slice(0, 80)); } }
  return found.slice(0, 3); }"""


# Ten thousand coloured bits of code take minutes to judge; one of each kind, in code and in output, tells as much.
ONE_OF_EACH_COLOUR = """() => { const seen = new Set(); document.querySelectorAll("pre span").forEach((one) => {
  const kind = one.className + Boolean(one.closest(".output"));
  if (seen.has(kind)) one.replaceWith(one.textContent); else seen.add(kind); }) }"""


def violations(tab) -> list[str]:
    """What axe finds, as text."""
    from axe_playwright_python.sync_playwright import Axe

    tab.evaluate(ONE_OF_EACH_COLOUR)
    run = Axe().run(tab, options={"preload": False, "resultTypes": ["violations"]})
    return [f"{one['id']}: {node['html'][:120]}" for one in run.response["violations"] for node in one["nodes"]]


def addresses() -> list[str]:
    """The pages to open; the front door leads to the cover and has a test of its own."""
    return [str(page.relative_to(SITE)) for page in pages(SITE) if page != SITE / "index.html"] or ["none"]


@pytest.mark.browser
@pytest.mark.parametrize("address", addresses())
def test_page_in_a_browser(visit, address: str) -> None:
    tab = visit(address)
    tab.evaluate("document.querySelectorAll('details').forEach((one) => one.open = true)")
    assert tab.locator("mjx-merror, .MathJax_Error").count() == 0
    assert tab.locator("span.math:not(:has(mjx-container)), div.math:not(:has(mjx-container))").count() == 0
    broken = tab.evaluate("[...document.images].filter((one) => !one.naturalWidth).map((one) => one.src)")
    assert broken == []
    for mode in ("light", "dark"):
        tab.emulate_media(color_scheme=mode)
        tab.wait_for_function(f"document.documentElement.dataset.theme === '{mode}'")
        tab.wait_for_timeout(400)  # colours fade from one mode to the other
        assert violations(tab) == [], mode
    for width in (360, 768):
        tab.set_viewport_size({"width": width, "height": 800})
        wide = tab.evaluate(CUT_OFF)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, wide
        assert wide == [], f"cut off at {width} px"
        assert tab.evaluate(STRAY) == [], f"at {width} px"
        assert tab.evaluate(CUT) == [], f"at {width} px"
    assert visit.complaints == []


@pytest.mark.browser
def test_what_is_cut_off_fades_and_nothing_else_does(visit) -> None:
    tab = visit("notebooks/05_attention.html")
    tab.set_viewport_size({"width": 360, "height": 800})
    boxes = tab.evaluate(
        """() => [...document.querySelectorAll(".pst-scrollable-table-container, div.math mjx-container")]
      .map((one) => [one.scrollWidth > one.clientWidth,
                     getComputedStyle(one).getPropertyValue("--book-fade") != "0px"])"""
    )
    assert {tuple(box) for box in boxes} == {(True, True), (False, False)}


@pytest.mark.browser
def test_front_door_leads_to_the_cover(visit) -> None:
    visit.tab.goto(f"file://{SITE}/index.html")
    visit.tab.wait_for_selector("section.cover h1")
    assert visit.complaints == []


@pytest.mark.browser
@pytest.mark.parametrize("query", ["perplexity", "token", "词元", "语言模型"])
def test_search_from_disk_finds_and_quotes(visit, query: str) -> None:
    tab = visit(f"search.html?q={query}")
    tab.wait_for_selector("#search-results .search-summary:has-text('found')")
    assert tab.locator("#search-results li a").count() > 0
    quotes = tab.locator("#search-results li p.context")
    quotes.first.wait_for()
    assert query[:2] in " ".join(quotes.all_text_contents()).lower()
    assert visit.complaints == []


@pytest.mark.browser
def test_printed_page_shows_the_text_alone(visit) -> None:
    tab = visit("book/index.html")
    tab.emulate_media(media="print")
    assert not tab.locator(".bd-sidebar-primary").is_visible()
    assert tab.locator("article p").first.is_visible()


# Broken on purpose: each of these must be noticed


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small notebook and its executed twin."""
    from execute import run

    folder = tmp_path_factory.mktemp("toy")
    (folder / "toy.py").write_text(TOY)
    store(run(read(folder / "toy.py"), folder), folder / "toy.ipynb")
    return folder


@pytest.mark.slow
def test_toy_notebook_is_clean_and_execution_reproduces_its_bytes(toy: Path) -> None:
    from execute import run

    assert notebook_problems(toy) == []
    before = (toy / "toy.ipynb").read_bytes()
    assert store(run(read(toy / "toy.py"), toy), toy / "toy.ipynb") is False
    assert (toy / "toy.ipynb").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("find", "put", "problem"),
    [
        (', "image": {"alt": "A line that rises."}', "", "without alt text"),
        ('"caption": "A line."', '"caption": ""', "without name or caption"),
        ("0.123", "0.124", "differ"),
        ("How many?", "So many.", "a question"),
        ("1 minute", "short", "minutes"),
        ("(ch-toy)=\n# # A", "# A", "a label"),
        ('"solution", "hide-cell"', '"solution"', "hide-cell"),
        ('tags=["check"]', 'tags=["exercise"]', "out of order"),
        ("assert double(2)", "assert double(1) == 2\n" * 20 + "assert double(2)", "lines; move"),
    ],
)
def test_broken_notebook_is_noticed(toy: Path, tmp_path: Path, find: str, put: str, problem: str) -> None:
    text = TOY.replace(find, put)
    assert text != TOY
    (tmp_path / "toy.py").write_text(text)
    notebook = nbformat.read(toy / "toy.ipynb", as_version=4)
    if problem != "differ":  # the twin follows, so that only the promise in question is broken
        for cell, new in zip(notebook.cells, jupytext.reads(text, "py:percent").cells, strict=True):
            cell.source, cell.metadata = new.source, new.metadata
    nbformat.write(notebook, tmp_path / "toy.ipynb")
    assert any(problem in one for one in notebook_problems(tmp_path)), notebook_problems(tmp_path)


@pytest.mark.slow
def test_stale_output_and_error_fail_under_nbval_but_the_last_digit_may_differ(toy: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(toy / "toy.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    cases = {"same": "0.123", "near": "0.124", "stale": "0.126", "words": "roughly 0.123", "raises": "0.123"}
    for case, printed in cases.items():
        cell = nbformat.from_dict({**code[0], "id": case, "outputs": [dict(code[0].outputs[0])]})
        cell.outputs[0]["text"] = f"{'' if case == 'words' else 'about '}{printed}\n"
        cell.source += "\n1 / 0" if case == "raises" else ""
        notebook.cells = [cell]
        nbformat.write(notebook, tmp_path / f"{case}.ipynb")
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval",
        "--nbval-sanitize-with",
        ROOT / "tests/nbval_sanitize.cfg",
        "-rA",
    ]
    shown = subprocess.run([*command, "."], cwd=tmp_path, capture_output=True, text=True).stdout
    results = {name: verdict for verdict, name in re.findall(r"(PASSED|FAILED)\S* (?:\S*/)?(\w+)\.ipynb", shown)}
    assert results == {"same": "PASSED", "near": "PASSED", "stale": "FAILED", "words": "FAILED", "raises": "FAILED"}, (
        shown
    )


PAGE = """<html lang="en"><title>t</title><article><h1 id="a">t</h1><figure><img src="p.svg" alt="p"><figcaption>
<span class="caption-text">c</span></figcaption></figure><a href="#a">a</a></article></html>"""


@pytest.mark.parametrize(
    ("find", "put", "problem"),
    [
        ("", "", None),
        ('alt="p"', "", "without alt text"),
        ('<span class="caption-text">c</span>', "", "without a caption"),
        ('"#a"', '"#b"', "dead anchor"),
        ('"#a"', '"b.html"', "dead link"),
        ("p.svg", "https://example.org/p.svg", "loads"),
        ("p.svg", "q.svg", "dead link"),
        ("<h1", "{numref}`fig`<h1", "raw markup"),
        ("<h1", '<code class="xref">fig</code><h1', "unresolved"),
        ("<h1", '<p id="a"><h1', "twice"),
        ("<h1", "<table></table><h1", "table without"),
    ],
)
def test_broken_page_is_noticed(tmp_path: Path, find: str, put: str, problem: str | None) -> None:
    (tmp_path / "p.svg").touch()
    (tmp_path / "page.html").write_text(PAGE.replace(find, put) if find else PAGE)
    problems = site_problems(tmp_path)
    assert problems == [] if problem is None else any(problem in one for one in problems)


BROKEN_PAGE = """# Broken

![](p.svg) and {eq}`nowhere` and {numref}`nothing` and {cite}`nobody` and {term}`no term`

```{figure} p.svg
:alt: here
```

| a |
|---|
| b |
"""


@pytest.mark.slow
def test_broken_page_stops_the_build(tmp_path: Path) -> None:
    for folder in ("_ext", "_static"):
        shutil.copytree(ROOT / "book" / folder, tmp_path / "book" / folder)
    shutil.copy(ROOT / "_config.yml", tmp_path)
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/index\n")
    (tmp_path / "book/references.bib").touch()
    (tmp_path / "book/p.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (tmp_path / "book/index.md").write_text(BROKEN_PAGE)
    command = [Path(sys.executable).with_name("jupyter-book"), "build", ".", "-W", "--keep-going", "-q"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    for complaint in (
        "picture without alt text", "figure without a caption", "table without a caption",
        "nowhere", "nothing", "nobody", "no term",
    ):  # fmt: skip
        assert complaint in done.stderr


# The student version is graded as it should be


@pytest.mark.slow
def test_solutions_score_full_and_stubs_wrong_answers_and_tampering_score_nothing(toy: Path, tmp_path: Path) -> None:
    release([toy / "toy.py"], tmp_path)
    answers = {
        "solved": "def double(x):\n    return 2 * x",
        "stub": None,
        "wrong": "def double(x):\n    return x + 2",
        "silent": "def double(x):\n    return None",
        "cheat": "def double(x):\n    return 4",
    }
    for student, answer in answers.items():
        notebook = nbformat.read(tmp_path / "release/toy/toy.ipynb", as_version=4)
        for cell in notebook.cells:
            if "exercise" in cell.metadata.get("tags", []) and answer:
                cell.source = answer
            if "check" in cell.metadata.get("tags", []) and student == "cheat":
                cell.source = "assert True"
        target = tmp_path / f"submitted/{student}/toy/toy.ipynb"
        target.parent.mkdir(parents=True)
        nbformat.write(notebook, target)
    nbgrader(tmp_path, "autograde", "toy", "--create")
    nbgrader(tmp_path, "export", "--to", "grades.csv")
    rows = [line.split(",") for line in (tmp_path / "grades.csv").read_text().splitlines()]
    scores = {row[rows[0].index("student_id")]: float(row[rows[0].index("score")]) for row in rows[1:]}
    assert scores == {student: float(student == "solved") for student in answers}
