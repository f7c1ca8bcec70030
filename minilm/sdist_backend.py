"""A stand-in for setuptools, so that pip can fetch a source archive without running any code of it.

``pip download`` asks an sdist for its name and version before it keeps the file. The real setuptools answers by
running the archive's ``setup.py`` (pip issue 1884). ``minilm.archive`` copies this file to
``<folder>/setuptools/build_meta.py`` and puts that folder first on ``PYTHONPATH``; pip then asks here, and the answer
is read from ``PKG-INFO``. Nothing can be built with it, and ``minilm`` never imports it.

Not covered: an sdist whose ``pyproject.toml`` names a build backend of its own. Source: PEP 517.
"""

import sys
from email.parser import HeaderParser
from pathlib import Path

__legacy__ = sys.modules[__name__]  # what pip asks for where an archive has no pyproject.toml


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: dict | None = None) -> str:
    """Write the least metadata pip accepts and return the folder's name; PEP 517 fixes the signature."""
    fields = HeaderParser().parsestr(Path("PKG-INFO").read_text(encoding="utf-8", errors="replace"))
    name, version = fields["Name"], fields["Version"]
    folder = Path(metadata_directory, f"{name.replace('-', '_')}-{version}.dist-info")
    folder.mkdir()
    folder.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder.name
