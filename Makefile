# make book renders the book, make test proves it; both set everything up first. `make help` lists the rest.
# Variables: PYTHON (an interpreter: 3.11, 3.12 or 3.13), TORCH_INDEX (a package index for PyTorch alone), NB, OUT.

VENV  := .venv
BIN   := $(VENV)/bin
READY := $(VENV)/.ready

# One thread: two notebooks at once do not fight for the cores, and sums come out in the same order everywhere.
export OMP_NUM_THREADS := 1
export PYTHONHASHSEED := 0

# Two files of tests, or two notebooks, at a time; conftest.py gives each a core of its own.
TWO := -n 2 --dist loadfile

.PHONY: help setup book test check lab notebooks bench student clean
.DELETE_ON_ERROR:

help:
	@echo "make book       set up, render the book to _build/html/index.html"
	@echo "make test       set up, run every test: package, notebooks, pages"
	@echo "make check      lint and the fast tests, under two minutes"
	@echo "make lab        open JupyterLab on the notebooks"
	@echo "make notebooks  run the notebooks and store their outputs (one: NB=03_ngram)"
	@echo "make student    assignments without solutions, as an nbgrader course in _build/student"
	@echo "make bench      time the package beside its reference libraries"
	@echo "make clean      remove what was built (the set-up in $(VENV) stays)"

setup: $(READY)

$(READY): requirements.txt book/_tools/setup.sh
	@VENV="$(VENV)" PYTHON="$(PYTHON)" TORCH_INDEX="$(TORCH_INDEX)" sh book/_tools/setup.sh

book: $(READY)
	@echo "Rendering the book, less than a minute ..."
	@$(BIN)/jupyter-book build . -W --keep-going -q
	@echo "The book: $(CURDIR)/_build/html/index.html"

check: $(READY)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/python -m pytest -q -m "not slow and not browser and not data"

test: $(READY)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/python -m pytest $(TWO) --ignore=tests/test_book.py
	@$(BIN)/python -m pytest -p no:cacheprovider $(TWO) --no-loadscope-reorder --nbval --nbval-current-env --nbval-sanitize-with tests/nbval_sanitize.cfg notebooks
	@$(MAKE) book
	@$(BIN)/python -m pytest tests/test_book.py

lab: $(READY)
	@$(BIN)/jupyter lab --notebook-dir=notebooks

notebooks: $(READY)
	@$(BIN)/python book/_tools/execute.py $(NB)

student: $(READY)
	@$(BIN)/python book/_tools/student.py

bench: $(READY)
	@for script in tests/benchmarks/bench_*.py; do echo; echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

clean:
	@rm -rf _build .pytest_cache .ruff_cache .hypothesis
	@find book minilm notebooks tests -name __pycache__ -type d -prune -exec rm -rf {} +
	@find notebooks \( -name .ipynb_checkpoints -o -name .ruff_cache \) -type d -prune -exec rm -rf {} +
