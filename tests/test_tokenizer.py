"""Tokenizers against their oracles: `tokenizers` for merges and files, `tiktoken` for ids, a slow loop for training."""

import json
import os
import random
import unicodedata
from collections import Counter
from collections.abc import Mapping
from itertools import accumulate, product
from pathlib import Path

os.environ.update(TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1")  # read when the library is first used

import pytest
import regex
import tiktoken
import tokenizers as library
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, trainers

from minilm import bpe, data
from minilm.tokenizer import BPE, END, PATTERN, Characters, Tokenizer, Words, load
from minilm.tokenizer_file import ALPHABET, TokenizerFile, write

ADVERSARIAL = {
    "emoji": "👨‍👩‍👧‍👦👩🏽‍🚀 🏳️‍🌈🇨🇳🇫🇷 1️⃣ ❤️‍🔥",
    "combining": "é é Z̴̡̛͖a̶͉͝l̷̙̎g̸̱̑o̴ ญี่ปุ่น ᄒ" + "ᅡ" * 9 + " á́́́́",
    "cjk": "自然语言处理，是人工智能的重要方向。ニューラル機械翻訳 한국어 𠮷野家",
    "right to left": "\u202eabc\u202c שלום \u2067مرحبا بالعالم\u2069 \u200fא1ב2\u200e",
    "controls": "".join(map(chr, [*range(0x20), 0x7F, *range(0x80, 0xA0)])) * 2,
    "nul": "a\x00b\x00\x00 \x00",
    "spaces": " a  b   c\t\td \n\n e\r\n\r\nf \u3000\u2003 g\u00a0\u2028\u2029h\x0b\x0c\x85 \v ",
    "edges": "\ufeff\ufffd\ufffe\uffff\U0010ffff\ue000\u00ad\u180e\u200b\u2060",
    "endings": "I'll don't 'S 're'd ''s they'LL 'llama '",
    "numbers": "3.14 1,000 ½ ² Ⅷ ١٢٣ 九 1st x86_64",
    "special": f"a{END}b <|end{END}<|pad|>",
    "empty": "",
}
EVERYTHING = "\n".join(ADVERSARIAL.values()) * 3 + "the theme of these then aaaa aaab "

# What every library's tables agree on: characters that Unicode had in 2002 (later versions name more of them letters).
KNOWN = st.characters(codec="utf-8").filter(lambda c: unicodedata.ucd_3_2_0.category(c) != "Cn")
TEXT = st.text(KNOWN) | st.text(st.sampled_from(EVERYTHING), max_size=60)
TINY = st.text("ab ", max_size=40) | st.text("aab\n低", max_size=30)  # ties everywhere, runs that overlap themselves


def library_bpe(text: str, vocab_size: int, specials: tuple[str, ...] = (END,), **options: int) -> library.Tokenizer:
    """Byte-level BPE as the library trains it."""
    tokenizer = library.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options |= {"vocab_size": vocab_size, "special_tokens": list(specials), "initial_alphabet": alphabet}
    tokenizer.train_from_iterator([text], trainers.BpeTrainer(show_progress=False, **options))
    return tokenizer


def saved(tokenizer: Tokenizer, folder: Path) -> dict:
    """What `save` writes."""
    tokenizer.save(folder / "tokenizer.json")
    return json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))


def in_library(tokenizer: Tokenizer, folder: Path) -> library.Tokenizer:
    """Our tokenizer, read by the library from our file; special names are plain text, as with us."""
    tokenizer.save(folder / "ours.json")
    theirs = library.Tokenizer.from_file(str(folder / "ours.json"))
    theirs.encode_special_tokens = True
    return theirs


def in_tiktoken(tokenizer: BPE) -> tiktoken.Encoding:
    """Our tokenizer's ranks and pattern in tiktoken."""
    ranks, specials = tokenizer.vocab, tokenizer.specials
    return tiktoken.Encoding("ours", pat_str=tokenizer.pattern, mergeable_ranks=ranks, special_tokens=specials)


def learned(tokenizer: library.Tokenizer) -> tuple[dict[str, int], list[list[str]]]:
    """Vocabulary and merges of a library tokenizer."""
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], model["merges"]


# cl100k_base's, in public with tiktoken: cuts numbers in threes, ignores case in endings, keeps line ends together.
GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

KINDS = {
    "characters": Characters.train(EVERYTHING, specials=("<|pad|>",)),
    "words": Words.train(EVERYTHING, 300, specials=(END, "<|pad|>")),
    "lossy words": Words.train(EVERYTHING, 40, byte_fallback=False, specials=(END,)),
    "bpe": BPE.train(EVERYTHING, 400, specials=(END, "<|pad|>")),
    "ranks": BPE.from_ranks(GPT4, BPE.train(EVERYTHING, 400, specials=()).vocab, {END: 1000}),
}
LOSSLESS = ["words", "bpe", "ranks"]
every_kind = pytest.mark.parametrize("kind", KINDS)


# --- Training ---------------------------------------------------------------------------------------------------------


def learn_slowly(words: Mapping[tuple[int, ...], int], n_merges: int, new_id: int) -> dict[bpe.Pair, int]:
    """Algorithm 1 of Sennrich et al. as it stands: count everything anew for every merge."""
    rows, merges = [(list(word), count) for word, count in words.items()], {}
    for id in range(new_id, new_id + n_merges):
        counts = Counter()
        for row, count in rows:
            counts.update({pair: n * count for pair, n in bpe.count_pairs(row).items()})
        if not counts:
            break
        pair = min(counts, key=lambda pair: (-counts[pair], pair))
        merges[pair] = id
        rows = [(bpe.merge(row, pair, id), count) for row, count in rows]
    return merges


@given(st.dictionaries(st.lists(st.integers(0, 2), max_size=12).map(tuple), st.integers(1, 3), max_size=6))
def test_learning_equals_counting_anew_for_every_merge(words):
    assert list(bpe.learn(words, 12, 3).items()) == list(learn_slowly(words, 12, 3).items())


@given(TINY | TEXT, st.integers(0, 60))
def test_merges_and_ids_are_those_of_the_library(tmp_path_factory, text, n_merges):
    vocab, merges = learned(library_bpe(text, 257 + n_merges))
    ours = saved(BPE.train(text, 257 + n_merges), tmp_path_factory.getbasetemp())["model"]
    assert (ours["merges"], ours["vocab"]) == (merges, vocab)


@given(TINY, st.integers(1, 4))
def test_min_count_is_the_min_frequency_of_the_library(tmp_path_factory, text, least):
    ours = saved(BPE.train(text, 300, min_count=least), tmp_path_factory.getbasetemp())["model"]
    assert ours["merges"] == learned(library_bpe(text, 300, min_frequency=least))[1]


CORPORA = {
    "shakespeare": lambda: data.load("shakespeare").text()[:1_100_000],
    "wikipedia": lambda: data.load("wikipedia").text()[:1_100_000],
    "ui": lambda: "\n".join(chinese for _, chinese in data.load_parallel("ui")),
}


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name", CORPORA)
def test_each_corpus_gives_the_merges_of_the_library_and_the_ids_of_tiktoken(tmp_path, name):
    text = CORPORA[name]()
    theirs, ours = library_bpe(text, 1024), BPE.train(text, 1024)
    model = saved(ours, tmp_path)["model"]
    assert (model["vocab"], model["merges"]) == learned(theirs)
    ids = ours.encode(text)
    assert ids == theirs.encode(text).ids
    assert ids == in_tiktoken(ours).encode_ordinary(text)


def test_the_most_frequent_words_get_ids_and_of_equals_the_first_in_order():
    words = Words.train(" z z j i h g f e d c b a", 256 + 4)
    assert words.tokens[256:] == [" z", " a", " b", " c"]
    assert Words.train("x x x y", 2, byte_fallback=False).tokens == ["<unk>", " x"]


# --- Encoding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ADVERSARIAL.values(), ids=ADVERSARIAL)
@pytest.mark.parametrize("kind", LOSSLESS)
def test_adversarial_text_gives_the_ids_of_the_libraries(tmp_path, kind, text):
    ours = KINDS[kind]
    ids = ours.encode(text)
    assert ids == in_library(ours, tmp_path).encode(text).ids
    if kind != "words":
        assert ids == in_tiktoken(ours).encode_ordinary(text)


@given(TEXT)
def test_any_text_gives_the_ids_of_the_libraries(text):
    assert KINDS["bpe"].encode(text) == TIKTOKEN.encode_ordinary(text)
    assert KINDS["bpe"].encode(text, specials=True) == TIKTOKEN.encode(text, allowed_special="all")


TIKTOKEN = in_tiktoken(KINDS["bpe"])


@given(st.integers(0, 2**32))
def test_random_ranks_give_the_ids_of_tiktoken(seed):
    # Tables no training makes: tokens that no two others form, parts ranked above the whole, the same token from
    # several pairs. Kills: taking outdated candidates, merging all places of a pair at once.
    rng = random.Random(seed)
    every = ["".join(letters) for n in range(2, 6) for letters in product("ab", repeat=n)]
    table = [bytes([byte]) for byte in range(256)] + [token.encode() for token in rng.sample(every, rng.randint(5, 50))]
    ranks = dict(zip(table, rng.sample(range(2 * len(table)), len(table)), strict=True))
    text = "".join(rng.choices("ab", k=100))
    ours = BPE.from_ranks(PATTERN, ranks)
    assert ours.encode(text) == in_tiktoken(ours).encode_ordinary(text)


def test_a_token_that_no_merge_makes_is_taken_where_it_is_a_whole_pre_token(tmp_path):
    ours = BPE.from_ranks(PATTERN, {bytes([byte]): byte for byte in range(256)} | {b"zqxj": 256})
    ours.save(tmp_path / "x.json")
    for text in ("zqxj", "zqxjz", " zqxj"):
        expected = [256] if text == "zqxj" else list(text.encode())
        assert ours.encode(text) == in_tiktoken(ours).encode_ordinary(text) == expected
        assert load(tmp_path / "x.json").encode(text) == in_library(ours, tmp_path).encode(text).ids == expected


LONG = {
    "one letter": lambda: "a" * 2**20,
    "letters": lambda: "".join(random.Random(0).choices("abcdefgh", k=2**20)),
    "cjk": lambda: "".join(map(chr, random.Random(0).choices(range(0x4E00, 0x4F00), k=2**20 // 3))),
    "spaces": lambda: " " * 2**18 + "a",  # of a million, tiktoken's regular expressions overflow their stack
    "emoji": lambda: "👨‍👩‍👧‍👦" * (2**20 // 25),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_a_megabyte_without_a_break_gives_the_ids_of_tiktoken(name):
    # Kills: looking for the best pair of the whole row before each merge, which would take hours here.
    text = LONG[name]()
    ours = BPE.train(text[:3000] + EVERYTHING, 600)
    ids = ours.encode(text)
    assert ids == in_tiktoken(ours).encode_ordinary(text)
    assert ours.decode(ids) == text


@pytest.mark.slow
def test_training_on_a_megabyte_without_a_break_ends():
    text = LONG["cjk"]()
    ours = BPE.train(text, 300)
    assert ours.token_bytes(299) in text.encode()
    assert len(ours.merges) == 300 - 257


# --- What holds for every tokenizer -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LOSSLESS)
@given(text=st.text())
def test_any_text_comes_back(kind, text):
    tokenizer = KINDS[kind]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
    assert all(0 <= id < tokenizer.vocab_size for id in ids)


@given(st.text(st.sampled_from(EVERYTHING)))
def test_known_characters_come_back(text):
    ids = KINDS["characters"].encode(text)
    assert KINDS["characters"].decode(ids) == text
    assert len(ids) == len(text)


@pytest.mark.parametrize("kind", LOSSLESS)
@given(text=TEXT)
def test_no_token_crosses_the_border_of_a_pre_token(kind, text):
    tokenizer = KINDS[kind]
    ends = set(accumulate(len(tokenizer.token_bytes(id)) for id in tokenizer.encode(text)))
    assert ends >= set(accumulate(len(word.encode()) for word in regex.findall(tokenizer.pattern, text)))


@every_kind
@given(data=st.data())
def test_any_ids_decode_as_in_the_library(tmp_path_factory, kind, data):
    ours = KINDS[kind]
    ids = data.draw(st.lists(st.sampled_from([id for id, token in enumerate(ours.tokens) if token])))
    theirs = in_library(ours, tmp_path_factory.getbasetemp())
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)  # halves of characters included


@every_kind
def test_tokenizers_obey_the_protocol(kind):
    tokenizer = KINDS[kind]
    assert isinstance(tokenizer, Tokenizer)
    assert len(tokenizer.tokens) == tokenizer.vocab_size
    assert all("Ġ" not in token for token in tokenizer.tokens)


def test_a_caller_who_changes_the_ids_does_not_change_the_next_encoding():
    KINDS["bpe"].encode("the").append(0)  # kills: handing out the remembered list itself
    assert KINDS["bpe"].decode(KINDS["bpe"].encode("the")) == "the"


def test_unknown_words_lose_their_bytes_and_say_so():
    words = Words.train(" a a b", 2, byte_fallback=False)
    ids = words.encode(" a zebra")
    assert ids == [1, words.unknown]
    assert b"".join(map(words.token_bytes, ids)) == b" a"
    assert words.decode(ids) == " a<unk>"


# --- Special tokens ---------------------------------------------------------------------------------------------------


@every_kind
def test_a_special_name_in_the_text_is_plain_text_unless_asked_for(kind):
    tokenizer = KINDS[kind]
    (name, id), *_ = tokenizer.specials.items()
    text = f"the{name}{name} theme"
    assert id not in tokenizer.encode(text)
    assert tokenizer.encode(text, specials=True).count(id) == 2
    assert tokenizer.encode(name, specials=True) == [id]
    assert tokenizer.token_bytes(id) == name.encode()
    assert tokenizer.decode([id]) == tokenizer.tokens[id] == name


@every_kind
def test_specials_in_text_give_the_ids_of_the_library(tmp_path, kind):
    ours = KINDS[kind]
    theirs = in_library(ours, tmp_path)
    theirs.encode_special_tokens = False
    text = " the ".join(ours.specials) + "".join(ours.specials) + " the"
    assert ours.encode(text, specials=True) == theirs.encode(text).ids


def test_of_two_special_names_the_longer_one_is_read(tmp_path):
    ours = BPE.train("ab", 260, specials=("<a", "<a>", "<a>>"))
    theirs = in_library(ours, tmp_path)
    theirs.encode_special_tokens = False
    assert ours.encode("<a>><a>b<a", specials=True) == theirs.encode("<a>><a>b<a").ids


def test_specials_that_could_not_be_told_from_text_are_refused(tmp_path):
    with pytest.raises(ValueError, match="specials: 'aa'"):
        BPE.train("aa aa", 300, specials=("aa",))
    with pytest.raises(ValueError, match="specials: ''"):
        BPE.train("aa aa", 300, specials=("",))
    with pytest.raises(TypeError, match="specials"):
        BPE.train("aa aa", 300, specials=END)
    with pytest.raises(ValueError, match="same id"):
        BPE.from_ranks(PATTERN, KINDS["bpe"].vocab, {"<x>": 300})
    with pytest.raises(ValueError, match="specials"):  # "Ġa" is how the file writes " a"
        BPE.train(" a a a", 260, specials=("Ġa",)).save(tmp_path / "x.json")


# --- Files ------------------------------------------------------------------------------------------------------------


@every_kind
def test_a_file_goes_to_the_library_and_back(tmp_path, kind):
    ours = KINDS[kind]
    theirs = in_library(ours, tmp_path)
    theirs.save(str(tmp_path / "theirs.json"))
    files = [json.loads((tmp_path / name).read_text(encoding="utf-8")) for name in ("ours.json", "theirs.json")]
    assert files[0] == files[1]
    assert list(files[0]["model"]["vocab"]) == list(files[1]["model"]["vocab"])  # in the order of ids
    again = load(tmp_path / "theirs.json")
    assert type(again) is type(ours)
    assert (again.vocab, again.specials, again.pattern) == (ours.vocab, ours.specials, ours.pattern)
    assert again.vocab_size == ours.vocab_size
    for text in ADVERSARIAL.values():
        ids = ours.encode(text)
        assert ids == theirs.encode(text).ids == again.encode(text)
        assert ours.decode(ids) == theirs.decode(ids) == again.decode(ids)


FROM_LIBRARY = library_bpe(EVERYTHING, 500, specials=("<s>", END))


@pytest.fixture(scope="module")
def from_library(tmp_path_factory) -> BPE:
    """The library's tokenizer, read by us from its file."""
    path = tmp_path_factory.mktemp("library") / "bpe.json"
    FROM_LIBRARY.save(str(path))
    return load(path)


@given(text=st.text(st.sampled_from(EVERYTHING)))
def test_files_of_the_library_give_its_ids(from_library, text):
    assert from_library.encode(text, specials=True) == FROM_LIBRARY.encode(text).ids


def test_words_that_the_library_has_trained_are_read(tmp_path):
    theirs = library.Tokenizer(models.WordLevel(unk_token="[UNK]"))
    theirs.pre_tokenizer, theirs.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    theirs.train_from_iterator([EVERYTHING], trainers.WordLevelTrainer(vocab_size=40, special_tokens=["[UNK]"]))
    theirs.save(str(tmp_path / "theirs.json"))
    ours = load(tmp_path / "theirs.json")
    for text in ADVERSARIAL.values():
        assert ours.encode(text) == theirs.encode(text).ids == in_library(ours, tmp_path).encode(text).ids
    assert ours.token_bytes(ours.encode("unseen")[0]) == b""


def test_files_as_gpt2_wrote_them_are_read(tmp_path, from_library):
    old = json.loads(FROM_LIBRARY.to_str())
    del old["model"]["type"], old["pre_tokenizer"]["use_regex"], old["model"]["ignore_merges"]
    old["model"]["merges"] = [" ".join(pair) for pair in old["model"]["merges"]]
    old["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False}
    (tmp_path / "old.json").write_text(json.dumps(old), encoding="utf-8")
    ours = load(tmp_path / "old.json")
    assert (ours.merges, ours.whole) == (from_library.merges, False)


def test_merges_whose_ids_are_not_in_order_keep_the_order_of_the_file(tmp_path):
    # Kills: ranking pairs by their new id.
    vocab = {bytes([byte]): id for id, byte in enumerate(ALPHABET)} | {b"ab": 257, b"bc": 256}
    a, b, c = (vocab[x] for x in (b"a", b"b", b"c"))
    write(tmp_path / "x.json", TokenizerFile(vocab, {}, {(a, b): 257, (b, c): 256}))
    assert load(tmp_path / "x.json").encode("abc") == [257, c]
    assert library.Tokenizer.from_file(str(tmp_path / "x.json")).encode("abc").ids == [257, c]


UNSUPPORTED = {
    "model.type": {"model": {"type": "WordPiece"}},
    "normalizer": {"normalizer": {"type": "NFC"}},
    "pre_tokenizer": {"pre_tokenizer": {"type": "Whitespace"}},
    "add_prefix_space": {"pre_tokenizer": {"add_prefix_space": True}},
    "post_processor.type": {"post_processor": {"type": "TemplateProcessing"}},
    "decoder.type": {"decoder": {"type": "Metaspace"}},
    "model.dropout": {"model": {"dropout": 0.1}},
    "model.byte_fallback": {"model": {"byte_fallback": True}},
    "model.unk_token": {"model": {"unk_token": "<s>"}},
    "model.end_of_word_suffix": {"model": {"end_of_word_suffix": "</w>"}},
    "truncation": {"truncation": {"max_length": 5}},
    "padding": {"padding": {"pad_id": 0}},
}


@pytest.mark.parametrize("what", UNSUPPORTED)
def test_what_is_not_supported_is_named(tmp_path, what):
    layout = json.loads(FROM_LIBRARY.to_str())
    for field, value in UNSUPPORTED[what].items():
        layout[field] = (layout[field] or {}) | value
    (tmp_path / "x.json").write_text(json.dumps(layout), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"x\.json: .*{what}"):
        load(tmp_path / "x.json")


@pytest.mark.parametrize("field", ["lstrip", "rstrip", "single_word", "special"])
def test_added_tokens_with_rules_of_their_own_are_named(tmp_path, field):
    layout = json.loads(FROM_LIBRARY.to_str())
    layout["added_tokens"][0][field] ^= True
    (tmp_path / "x.json").write_text(json.dumps(layout), encoding="utf-8")
    with pytest.raises(ValueError, match=field):
        load(tmp_path / "x.json")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "1", "null", "{}", '{"model": {}}', "[" * 10**5, "\x00", '{"model": []}']
)
def test_foreign_files_are_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"x\.json: not"):
        load(tmp_path / "x.json")


@given(st.data())
def test_files_cut_short_are_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "cut.json"
    KINDS["bpe"].save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])  # within a character, too
    with pytest.raises(ValueError, match=r"cut\.json: not JSON"):
        load(path)


@pytest.mark.parametrize("id", ["0", -1, 1.5, None])
def test_a_file_with_an_id_that_is_none_is_refused(tmp_path, id):
    layout = json.loads(FROM_LIBRARY.to_str())
    layout["model"]["vocab"]["a"] = id
    (tmp_path / "x.json").write_text(json.dumps(layout), encoding="utf-8")
    with pytest.raises(ValueError, match=r"x\.json: not a file"):
        load(tmp_path / "x.json")


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    KINDS["bpe"].save(path)
    before = path.read_bytes()

    def full_disk(self, content):
        assert self != path, "written in place: a reader or a power cut at this moment would find half a file"
        with self.open("wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space"):
        KINDS["words"].save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# --- Bad input --------------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("id", [-1, 10**6, None, "a"])
def test_an_unknown_id_is_named(kind, id):
    for read in (lambda: KINDS[kind].decode([0, id]), lambda: KINDS[kind].token_bytes(id)):
        with pytest.raises((ValueError, TypeError), match=repr(id)):
            read()


@every_kind
def test_what_is_no_text_is_refused(kind):
    with pytest.raises(TypeError, match="text"):
        KINDS[kind].encode(b"bytes")
    with pytest.raises(ValueError, match=r"text: '\\ud83d' at position 2 is a lone surrogate"):
        KINDS[kind].encode("ab\ud83d")


def test_training_refuses_what_it_cannot_hold():
    with pytest.raises(ValueError, match=r"vocab_size: 257 is too small.* 258"):
        BPE.train("text", 257, specials=("<a>", "<b>"))
    with pytest.raises(ValueError, match=r"vocab_size: 255 is too small.* 256"):
        Words.train("text", 255)
    with pytest.raises(ValueError, match="lone surrogate"):
        Characters.train("a\udc00")
    with pytest.raises(ValueError, match="pattern"):
        BPE.from_ranks("(", KINDS["bpe"].vocab)
    with pytest.raises(ValueError, match="byte 0x01 has no token"):
        BPE.from_ranks(PATTERN, {b"\x00": 0})


def test_an_unknown_character_is_named_with_its_place():
    with pytest.raises(ValueError, match="text: the character 'z' at position 2"):
        Characters.train("abc").encode("abz")


def test_a_text_without_pairs_gives_a_smaller_vocabulary():
    assert BPE.train("", 1000).vocab_size == 257
    assert BPE.train("a b", 1000).tokens[257:] == [" b"]
    assert Characters.train("").encode("") == []


def test_a_pattern_that_skips_text_is_refused():
    with pytest.raises(ValueError, match="pattern"):
        BPE.from_ranks(r"\w+", KINDS["bpe"].vocab).encode("a b")
