"""Fetching, with a folder as the package index: what arrives is what was pinned, or the cache stays as it was."""

import contextlib
import errno
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from minilm import archive, files
from minilm.archive import Archive, DataError

WHEEL, SDIST = "tinytext-1.0-py3-none-any.whl", "tinytrap-1.0.tar.gz"
METADATA = "Metadata-Version: 2.1\nName: {}\nVersion: 1.0\n"


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder that pip takes for the whole index, and a cache of our own."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("MINILM_HOME", str(tmp_path / "home"))
    files.write(archive.home() / "archives" / "neighbour", b"fetched before")
    return folder


@pytest.fixture
def wheel(shelf):
    with zipfile.ZipFile(shelf / WHEEL, "w") as file:
        info = "tinytext-1.0.dist-info"
        file.writestr("tinytext/b.txt", "second")
        file.writestr("tinytext/a.txt", "first")
        file.writestr(f"{info}/METADATA", METADATA.format("tinytext"))
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
    return pin(shelf / WHEEL, "tinytext==1.0")


def trapped(shelf, trap):
    """An sdist that leaves a trace where any of its code runs; the modules shadow what a backend may import."""
    spring = f"open({str(trap)!r}, 'a').write('code of the archive ran')\n"
    files = {"setup.py": spring + "from setuptools import setup; setup(name='tinytrap', version='1.0')\n"}
    files |= {"email/__init__.py": spring, "pathlib.py": spring, "PKG-INFO": METADATA.format("tinytrap")}
    with tarfile.open(shelf / SDIST, "w:gz") as file:
        for name, text in {**files, "texts/a.txt": "first"}.items():
            member = tarfile.TarInfo(f"tinytrap-1.0/{name}")
            member.size = len(text)
            file.addfile(member, io.BytesIO(text.encode()))
    return pin(shelf / SDIST, "tinytrap==1.0")


def pin(path, package):
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return Archive(package=package, file=path.name, sha256=digest, archive_bytes=len(content))


def cache():
    return {str(path.relative_to(archive.home())): path.read_bytes() for path in archive.home().rglob("*.*")} | {
        path.name: path.read_bytes() for path in archive.home().rglob("neighbour")
    }


def refused(pinned, reason):
    """The fetch fails with one sentence that names the file, and leaves no trace in the cache."""
    before = cache()
    with pytest.raises(DataError, match=reason) as caught:
        archive.fetch(pinned)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    assert pinned.file in message or pinned.package in message or str(archive.home()) in message
    assert cache() == before
    assert {path.name for path in archive.home().iterdir()} == {"archives"}


def pip_that(action):
    """A pip that does ``action(folder)`` in place of a download."""

    def run(command, **options):
        return action(archive.Path(command[command.index("--dest") + 1])) or subprocess.CompletedProcess(command, 0)

    return run


def test_a_wheel_arrives_once_and_is_read_in_order(wheel, monkeypatch, capfd):
    path = archive.fetch(wheel)
    assert path == archive.home() / "archives" / WHEEL and archive.verify(wheel)
    assert archive.members(wheel, r"\.txt$") == [("tinytext/a.txt", b"first"), ("tinytext/b.txt", b"second")]
    out, err = capfd.readouterr()
    assert out == "" and err == f"fetching {WHEEL} (0.0 MB)\n"
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was called for a cached archive"))
    assert archive.fetch(wheel) == path
    assert capfd.readouterr() == ("", "")


def test_no_code_of_an_sdist_runs(shelf, tmp_path, monkeypatch):
    trap = tmp_path / "trap"
    monkeypatch.setenv("PYTHONPATH", ".")  # with it, code that runs inside the archive imports the archive's modules
    monkeypatch.setenv("PIP_ONLY_BINARY", ":all:")  # a reader's own setting must not get in the way
    pinned = trapped(shelf, trap)
    assert archive.members(pinned, "texts/") == [("tinytrap-1.0/texts/a.txt", b"first")]
    assert not trap.exists()


@pytest.mark.slow
def test_the_trap_works(shelf, tmp_path, monkeypatch):
    pytest.importorskip("setuptools", reason="the control needs the setuptools that the stand-in replaces")
    trap, empty = tmp_path / "trap", tmp_path / "empty"
    monkeypatch.setattr(archive, "_stand_in", lambda folder: empty)
    with contextlib.suppress(DataError):  # the sprung trap may well break the build
        archive.fetch(trapped(shelf, trap))
    assert trap.exists()


def test_a_wrong_hash_is_refused_before_anything_of_the_archive_is_looked_at(shelf, tmp_path):
    pinned = trapped(shelf, tmp_path / "trap")
    other = Archive(package=pinned.package, file=SDIST, sha256="0" * 64, archive_bytes=pinned.archive_bytes)
    refused(other, "does not have its pinned hash.*try again")


def test_a_truncated_archive_is_refused(wheel, shelf, monkeypatch):
    whole = (shelf / WHEEL).read_bytes()
    (shelf / WHEEL).write_bytes(whole[:-1])
    refused(wheel, "cut short")
    # and also where pip itself would let it pass
    monkeypatch.setattr(subprocess, "run", pip_that(lambda folder: (folder / WHEEL).write_bytes(whole[:-1]) * 0))
    refused(wheel, rf"truncated \({len(whole) - 1} of {len(whole)} bytes\)")
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    monkeypatch.setattr(subprocess, "run", pip_that(lambda folder: (folder / WHEEL).write_bytes(flipped) * 0))
    refused(wheel, "do not use it")
    monkeypatch.setattr(subprocess, "run", pip_that(lambda folder: None))
    refused(wheel, "pip delivered no")


def test_a_damaged_file_in_the_cache_is_replaced(wheel):
    path = archive.home() / "archives" / WHEEL
    files.write(path, b"x" * wheel.archive_bytes)  # the right size, the wrong bytes
    assert not archive.verify(wheel)
    assert archive.fetch(wheel) == path and archive.verify(wheel)


def test_a_vanished_archive_is_named(wheel, shelf):
    (shelf / WHEEL).unlink()
    refused(wheel, "offers no tinytext==1.0 any more")


def test_no_network_says_so(wheel, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens on the port "discard"
    monkeypatch.setenv("PIP_RETRIES", "0")
    refused(wheel, "cannot reach the package index.*check the network")


def test_no_pip_says_how_to_get_it(wheel, tmp_path, monkeypatch):
    venv.create(tmp_path / "bare", with_pip=False)
    bare = next(path for path in (tmp_path / "bare").glob("*/python*") if path.is_file())
    monkeypatch.setattr(sys, "executable", str(bare))
    refused(wheel, "has no pip.*-m ensurepip")


@pytest.mark.parametrize("number, reason", [(errno.ENOSPC, "no space left"), (errno.EACCES, "cannot write to")])
def test_a_disk_that_refuses_says_what_to_do(wheel, monkeypatch, number, reason):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refuse)
    refused(wheel, f"{reason}.*MINILM_HOME")


def test_pip_out_of_space_says_so(wheel, monkeypatch):
    said = b"ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n"
    failed = subprocess.CompletedProcess([], 1, stderr=said)
    monkeypatch.setattr(subprocess, "run", pip_that(lambda folder: failed))
    refused(wheel, "no space left on the disk.*MINILM_HOME")


def test_an_unknown_complaint_of_pip_is_passed_on(wheel, monkeypatch):
    failed = subprocess.CompletedProcess([], 2, stderr=b"WARNING: old\nERROR: the moon is in the wrong quarter\n")
    monkeypatch.setattr(subprocess, "run", pip_that(lambda folder: failed))
    refused(wheel, "the moon is in the wrong quarter")


def test_a_home_that_cannot_be_made_is_named(wheel, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MINILM_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(DataError, match=r"cannot write to .*home.*MINILM_HOME"):
        archive.fetch(wheel)


@pytest.mark.slow
def test_two_at_once_are_safe(wheel):
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(archive.fetch, [wheel, wheel]))
    assert paths[0] == paths[1] and archive.verify(wheel)
    assert sorted(path.name for path in paths[0].parent.iterdir()) == ["neighbour", WHEEL]
    assert [path.name for path in archive.home().iterdir()] == ["archives"]


def test_home_is_the_variable_or_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("MINILM_HOME", str(tmp_path))
    assert archive.home() == tmp_path
    monkeypatch.setenv("MINILM_HOME", "~/elsewhere")
    assert archive.home() == archive.Path.home() / "elsewhere"
    monkeypatch.delenv("MINILM_HOME")
    assert archive.home().is_absolute() and archive.home().name in ("minilm", "Cache")
