"""How the stored outputs of the notebooks are compared with new ones (by nbval, `make test`).

The tolerance: the words are the same, and a printed decimal number may differ by one unit in its last place, since
another processor sums in another order. Whole numbers are compared exactly. Pictures and progress bars are not
compared: a number is printed beside each picture.
"""

import os
import re

import pytest

collect_ignore_glob = ["notebooks/*.py", "book/*"]  # notebooks are collected as .ipynb

NUMBER = re.compile(r"[-+]?\d+\.\d+(?:e[-+]?\d+)?")
WIDTH = re.compile(r"([ -])\1+")  # "9.99" and "10.00" shift what is beside and between them
NOT_COMPARED = ("image/svg+xml", "stderr")

ORDER = "17 10 09 16 04 03 13 05 08 12 11 07 14 app 01 15 02 06".split()
"""How two workers take the notebooks: long ones first; and those that read SmolLM2 one at a time, as far as it goes,
since each of them uses all that the memory can give."""


class Printed(str):
    """Text that equals another within the tolerance above.

    >>> Printed("loss 1.234 nats") == "loss 1.235 nats", Printed("1.234") == "1.236", Printed("7 words") == "8 words"
    (True, False, False)
    """

    def __eq__(self, other: object) -> bool:
        mine, theirs = NUMBER.findall(self), NUMBER.findall(str(other))
        words, others = (WIDTH.sub(r"\1", NUMBER.sub("#", text)) for text in (self, str(other)))
        return words == others and all(map(close, mine, theirs))

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


def close(a: str, b: str) -> bool:
    """Whether two printed numbers are one unit of the last place apart, or less."""
    return abs(float(a) - float(b)) <= 1.001 * max(unit(a), unit(b))


def unit(number: str) -> float:
    """The value of a one in the last printed place: ``unit("0.25") == 0.01``."""
    mantissa, _, exponent = number.partition("e")
    return 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


def pytest_configure(config: pytest.Config) -> None:
    """Gives nbval the tolerance, and Jupyter's habit of keeping a history: without one a closing ``;`` is not heard.

    What runs at once has a core each: trainings take all the cores they see, and would wait for each other.
    """
    if hasattr(config, "workerinput") and hasattr(os, "sched_setaffinity"):
        place, workers = int(config.workerinput["workerid"].removeprefix("gw")), config.workerinput["workercount"]
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[place % len(cores) :: workers])
    if config.getoption("nbval", default=False):
        from nbval.kernel import RunningKernel
        from nbval.plugin import IPyNbCell

        sanitize = IPyNbCell.sanitize
        RunningKernel.execute_cell_input = lambda kernel, source, allow_stdin=None: kernel.kc.execute(
            source, allow_stdin=allow_stdin, stop_on_error=False
        )
        IPyNbCell.sanitize = lambda cell, text: Printed(sanitize(cell, text)) if isinstance(text, str) else text


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the notebooks in the order above, and new ones at the end."""
    places = {name: place for place, name in enumerate(ORDER)}
    items.sort(key=lambda item: places.get(item.path.name.split("_")[0], len(ORDER)))


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Tells nbval what not to compare."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += NOT_COMPARED
