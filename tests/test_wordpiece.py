"""WordPiece gives the ids of BertTokenizer, on text made to tell them apart."""

import os
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm import wordpiece
from minilm.wordpiece import INSIDE, SPECIALS, WordPiece, pieces, tidy, words

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers")

LETTERS = "abcdefghinorstuäßøжчσ語言9א가ア!'-$₤"
TOKENS = [*SPECIALS, *LETTERS, *(INSIDE + letter for letter in LETTERS), "the", "##est", "unto", "un", "##to", "o'"]
HERE = WordPiece(TOKENS)
CHANGED = "\u166d\u1734\u1885\u1886"
"""Characters that have changed their category since the tables of the reference were made."""

# What Unicode 3.2 had assigned: the reference knows no newer characters than those of its tables.
OLD = [
    chr(code)
    for code in range(sys.maxunicode + 1)
    if unicodedata.ucd_3_2_0.category(chr(code)) not in ("Cn", "Cs") and chr(code) not in CHANGED
]
adversarial = st.lists(
    st.one_of(st.sampled_from([*TOKENS, "\t", " ", "\x00", "\ufffd", "\u200b", "\u0301", "İ", "ΟΔΟΣ", "ﬁ", "\x85"]),
              st.sampled_from(OLD), st.text(LETTERS, max_size=8), st.just("n" * 101), st.just("n" * 100)),
    max_size=30,
).map("".join)  # fmt: skip


@pytest.fixture(scope="module")
def there():
    return transformers.BertTokenizer(vocab={token: id for id, token in enumerate(TOKENS)})


@given(text=adversarial)
def test_ids_are_those_of_transformers(there, text):
    ours = HERE.row(text, length=10**6, specials=True)[0]
    assert ours == there(text).input_ids
    if not any(name in text for name in SPECIALS):
        assert HERE.encode(text) == HERE.encode(text, specials=True)


@given(texts=st.lists(adversarial, min_size=1, max_size=3), length=st.integers(2, 40))
def test_batches_are_those_of_transformers(there, texts, length):
    ids, mask = HERE.batch(texts, length=length, specials=True)
    wanted = there(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
    assert ids.tolist() == wanted.input_ids.tolist() and mask.int().tolist() == wanted.attention_mask.tolist()


@given(first=adversarial, second=adversarial)
def test_pairs_are_those_of_transformers(there, first, second):
    length = len(HERE.encode(first, specials=True)) + 5
    ids, mask, types = HERE.batch([first, first], [second, "un"], length=length, specials=True)
    wanted = there([first, first], [second, "un"], padding=True, truncation="only_second", max_length=length)
    assert ids.tolist() == wanted["input_ids"] and mask.int().tolist() == wanted["attention_mask"]
    assert types.tolist() == wanted["token_type_ids"]


@pytest.mark.parametrize("lower", [True, False])
def test_every_character_is_tidied_as_by_the_reference(lower):
    tokenizers = pytest.importorskip("tokenizers")
    rule = tokenizers.normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=lower
    )
    cut = tokenizers.pre_tokenizers.BertPreTokenizer()
    for start in range(0, len(OLD), 1000):
        text = "".join(f"a{character}b " for character in OLD[start : start + 1000])
        assert tidy(text, lower) == rule.normalize_str(text)
        assert words(tidy(text, lower)) == [word for word, _ in cut.pre_tokenize_str(tidy(text, lower))]


@pytest.mark.data
def test_real_text_has_the_ids_of_transformers(tmp_path):
    from minilm import bert, data

    _, here = bert.load("all-minilm")
    here.save(tmp_path / "vocab.txt")
    there = transformers.BertTokenizer.from_pretrained(tmp_path)
    for name in ("wikipedia", "ui"):
        for document in data.load(name).test:
            text = document.text[:30_000]
            assert here.encode(text) == there.encode(text, add_special_tokens=False)


@given(st.text("abc", max_size=12), st.lists(st.text("abc", min_size=1, max_size=3), max_size=8))
def test_spelling_is_the_longest_prefix_each_time(word, known):
    vocab = dict.fromkeys([*known, *(INSIDE + one for one in known)], 0)
    found = pieces(word, vocab)
    if found:
        assert "".join(piece.removeprefix(INSIDE) for piece in found) == word
        rest = word
        for piece in found:
            own = piece.removeprefix(INSIDE)
            assert not any(len(one) > len(own) and rest.startswith(one) for one in known)
            rest = rest[len(own) :]
    elif word:  # follow the rule until it gets stuck
        rest = word
        while fitting := [one for one in known if rest.startswith(one)]:
            rest = rest.removeprefix(max(fitting, key=len))
        assert rest


def test_greed_can_lose_a_word_that_could_be_spelled():
    assert pieces("abc", {"ab": 0, "a": 1, "##bc": 2}) == []


def test_names_of_specials_in_a_text_are_plain_text_unless_asked_for():
    assert HERE.mask_id not in HERE.encode("the [MASK] the")
    assert HERE.encode("the[MASK]the", specials=True) == [HERE.vocab["the"], HERE.mask_id, HERE.vocab["the"]]


def test_a_vocabulary_travels_as_a_file(tmp_path):
    tokens = [*TOKENS, "\u2028", "\x0b"]  # line ends to str.splitlines, tokens to BERT
    WordPiece(tokens).save(tmp_path / "vocab.txt")
    assert wordpiece.load(tmp_path / "vocab.txt").tokens == tokens
    assert not wordpiece.load(tmp_path / "vocab.txt", lower=False).lower


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: WordPiece(["a", "b"]), r"\[PAD\] is missing"),
        (lambda: WordPiece([*SPECIALS, "a", "a"]), "occurs twice"),
        (lambda: HERE.encode("\ud800"), "lone surrogate"),
        (lambda: HERE.row("the the the", "un", length=6), "its 5 ids leave a second text no room in 6"),
        (lambda: HERE.batch([]), "nothing to pad"),
    ],
)
def test_refusals_say_why(call, message):
    with pytest.raises(ValueError, match=message):
        call()
