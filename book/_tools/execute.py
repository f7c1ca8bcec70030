"""Runs notebooks: the text (``notebooks/NN_topic.py``) is the source, the ``.ipynb`` beside it holds the outputs.

    python book/_tools/execute.py                 # all, in order
    python book/_tools/execute.py 03_ngram        # one

The same outputs give the same bytes: no times, no versions, and cell ids that depend on the cell's text alone. A
notebook that raises or prints a warning is reported and its stored twin stays as it was.
"""

import hashlib
import os
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from minilm.files import write

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
KERNEL = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}


def read(source: Path) -> nbformat.NotebookNode:
    """The notebook of a text twin, without outputs, with ids that change only where a cell's text changes."""
    notebook = jupytext.read(source)
    notebook.metadata = {"jupytext": {"formats": "ipynb,py:percent"}, "kernelspec": KERNEL}
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def run(notebook: nbformat.NotebookNode, folder: Path, timeout: int = 600) -> nbformat.NotebookNode:
    """Executes the cells in `folder` and keeps what they print and draw; a warning on standard error is an error."""
    client = NotebookClient(
        notebook,
        timeout=timeout,
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
    )
    client.execute()
    for name in ("language_info", "widgets"):  # the version of Python; progress bars, which are not kept either
        notebook.metadata.pop(name, None)
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        for output in cell.outputs:
            if output.get("name") == "stderr" and "Warning" in output.text:
                raise ValueError(f"cell {number} warns; repair the cause or silence that one warning:\n{output.text}")
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]  # progress bars
        if "remove-output" in cell.metadata.get("tags", []):
            cell.outputs = []  # pages leave it out, so nothing is stored
    return notebook


def store(notebook: nbformat.NotebookNode, target: Path) -> bool:
    """Writes the executed twin, whole or not at all; False where it already held the same bytes."""
    text = nbformat.writes(notebook) + "\n"
    if target.exists() and target.read_text(encoding="utf-8") == text:
        return False
    write(target, text.encode())
    return True


def main(names: list[str]) -> int:
    """Runs the named notebooks, or all; returns the exit status."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("PYTHONHASHSEED", "0")
    sources = [NOTEBOOKS / f"{Path(name).stem}.py" for name in names] or sorted(NOTEBOOKS.glob("*.py"))
    failed = 0
    for source in sources:
        if not source.exists():
            print(f"There is no {source.name}; there are: {', '.join(sorted(p.stem for p in NOTEBOOKS.glob('*.py')))}")
            return 1
        start = time.perf_counter()
        print(f"{source.stem}: running ...", flush=True)
        try:
            changed = store(run(read(source), source.parent), source.with_suffix(".ipynb"))
        except (CellExecutionError, ValueError) as error:
            failed += 1
            print(f"{source.stem}: FAILED, nothing stored\n{error}", flush=True)
            continue
        print(f"{source.stem}: {time.perf_counter() - start:.0f} s, {'stored' if changed else 'unchanged'}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
