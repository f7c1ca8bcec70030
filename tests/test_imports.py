"""The reading order of the package: a module imports only modules that stand above it in the table."""

import ast
from pathlib import Path

import minilm

ORDER = """
    contract
    files sdist_backend archive cards clean duplicates splits batching data
    bpe tokenizer_file vocabulary tokenizer
    counts discounts recursion ngram
    rnn layers attention transformer gpt gpt2_files
    generate beam metrics evaluate
    machine optim distributed checkpoint trainer train recipe presets cost
    gguf chat llama models quantise
    heads wordpiece encoder bert_files bert
    lora lora_files finetune preference
    tasks spans t5 t5_files multitask
    prompting forms constrain
    retrieval questions reading summary
    writing
    tools examples applications interpret
    flags plots request desk serve __main__
""".split()
FOLDER = Path(minilm.__file__).parent


def imports(path: Path) -> set[str]:
    """The modules of the package that a file imports, in any of the ways Python has."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "minilm"):
            module = (node.module or "").removeprefix("minilm").strip(".")
            found |= {module} if module else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("minilm.") for alias in node.names if alias.name.startswith("minilm")}
    return found


def test_table_names_every_module():
    assert {path.stem for path in FOLDER.glob("*.py")} - {"__init__"} == set(ORDER)


def test_modules_import_only_what_stands_above_them():
    for place, name in enumerate(ORDER):
        below = imports(FOLDER / f"{name}.py") - set(ORDER[:place])
        assert not below, f"minilm.{name} imports {below}, which the table puts at or below it"


def test_only_plots_knows_matplotlib():
    for name in ORDER:
        assert name == "plots" or "matplotlib" not in (FOLDER / f"{name}.py").read_text(encoding="utf-8")
