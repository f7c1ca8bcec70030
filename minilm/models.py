"""A language model by its name, wherever it comes from.

Not here: how it was made (``minilm.train``, ``minilm.presets``) or stored (``minilm.checkpoint``, ``minilm.gguf``).
"""

from functools import lru_cache
from pathlib import Path

from . import checkpoint, data, llama, presets
from .contract import LanguageModel
from .tokenizer import Tokenizer


def load(name: str = "smollm2") -> tuple[LanguageModel, Tokenizer]:
    """A model and its tokenizer: of a folder that `train` wrote, a preset, a ``.gguf`` file, or a card.

    The model of a preset is the book's, trained on Shakespeare at the first call. Calls share what is loaded, so it is
    not to be changed; where its files have changed, it is loaded anew. Raises ValueError for a name of none of these,
    and what the loading raises.
    """
    return _load(name, data.state(name))


@lru_cache(maxsize=2)
def _load(name: str, state: tuple) -> tuple[LanguageModel, Tokenizer]:
    if Path(name).is_dir():
        return checkpoint.load(name)
    if check(name) in presets.PRESETS:
        trained = presets.trained(name)
        return trained.model, trained.tokenizer
    return llama.load(name)


def check(name: str) -> str:
    """The name, if `load` knows where to look for it; nothing is fetched or trained. Raises ValueError.

    >>> check("smollm2"), check("gpt")
    ('smollm2', 'gpt')
    """
    machines = {name: recipe.machine for name, recipe in presets.PRESETS.items()}
    known = [*llama.NAMES, *(name for name, machine in machines.items() if machine == "two cores")]
    if name in known or Path(name).exists():
        return name
    if name in machines:
        raise ValueError(
            f"{name!r} is a preset for {machines[name]}, and not trained here: train it with `python -m minilm train "
            f"--preset {name} --text FILE --out FOLDER`, and give the folder"
        )
    raise ValueError(f"there is no model {name!r}: give a folder, a .gguf file, or one of {', '.join(known)}")
