"""The student version: every notebook without its solutions, as an nbgrader course that is ready to release.

    python book/_tools/student.py                   # all notebooks -> _build/student

A cell tagged `exercise` becomes the answer that is collected, a cell tagged `check` becomes a locked test worth a
point, and a cell tagged `solution` stays out. `source/` and `release/` hold the assignments, `gradebook.db` knows
them: hand out `release/`, put what comes back into `submitted/STUDENT/ASSIGNMENT/`, run `nbgrader autograde`.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

sys.path.insert(0, str(Path(__file__).parent))
from execute import NOTEBOOKS, read

COURSE = Path(__file__).parents[2] / "_build" / "student"
CONFIG = """c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "language-models"
c.ExecutePreprocessor.timeout = 300  # seconds for one cell, so an endless loop costs one answer, not the evening
c.ClearSolutions.enforce_metadata = False
c.GenerateAssignment.preprocessors = [  # the solutions are out already, so nothing is cleared
    "nbgrader.preprocessors." + name
    for name in ("LockCells", "ClearOutput", "CheckCellMetadata", "ComputeChecksums", "SaveCells")
]
"""
LABEL = re.compile(r"^:label:\s*(\S+)", re.MULTILINE)


def student_version(notebook: NotebookNode) -> NotebookNode:
    """Drops solutions and outputs, marks answers and checks for nbgrader, each named after its exercise's label."""
    label, checks, cells = "exercise", 0, []
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "markdown":
            label = (LABEL.findall(cell.source) or [label])[-1]
        if "solution" in tags:
            continue
        if "exercise" in tags:
            checks = 0
            cell.metadata["nbgrader"] = marks(label, solution=True)
        elif "check" in tags:
            checks += 1
            cell.metadata["nbgrader"] = marks(f"{label}-check-{checks}", grade=True, locked=True, points=1)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        cells.append(cell)
    notebook.cells = cells
    return notebook


def marks(grade_id: str, **changes: bool | int) -> dict[str, object]:
    """What a cell is, in the words of nbgrader."""
    plain = {"schema_version": 3, "grade": False, "solution": False, "locked": False, "task": False}
    return {**plain, "grade_id": grade_id, **changes}


def nbgrader(course: Path, *arguments: str) -> None:
    """Runs one nbgrader command in the course's folder; its helpers live beside this Python."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    command = [sys.executable, "-m", "nbgrader", *arguments]
    done = subprocess.run(command, cwd=course, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"nbgrader {' '.join(arguments)} failed in {course}:\n{done.stderr}")


def release(sources: list[Path], course: Path) -> None:
    """Writes the course: one assignment per text twin in `sources`, released."""
    course.mkdir(parents=True, exist_ok=True)
    (course / "nbgrader_config.py").write_text(CONFIG)
    for source in sources:
        target = course / "source" / source.stem / f"{source.stem}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(student_version(read(source)), target)
        nbgrader(course, "generate_assignment", source.stem, "--create", "--force")
        print(f"{source.stem}: {course / 'release' / source.stem}", flush=True)


if __name__ == "__main__":
    release(sorted(NOTEBOOKS.glob("*.py")), COURSE)
