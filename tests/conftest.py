"""How hypothesis runs in every test: a busy machine is no failure, and CI draws the same examples at every run."""

import os

from hypothesis import settings

settings.register_profile("book", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("book")
