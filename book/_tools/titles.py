"""The long run behind chapter 17: SmolLM2 writes headlines, asked, shown examples, and tuned with LoRA.

Called by ``record.py``. The articles may not be passed on, so the record holds marks, one for each article, and no
text: neither of an article nor of a headline.
"""

import random
import sys
from collections.abc import Iterator

import torch
from rouge_score.rouge_scorer import RougeScorer

from minilm import data, llama, writing
from minilm.gpt import GPT
from minilm.writing import Article

ARTICLES = 64
"""How many of the test split."""

SEEDS = 1
"""How often LoRA is repeated."""

KINDS = ("rouge1", "rougeL")


def headlines() -> Iterator[dict]:
    """A row for each way to write a headline: its marks on the same articles, in the order of ``places``."""
    torch.set_num_threads(1)
    news = data.load_labelled("bbc-news")
    places = random.Random(0).sample(range(len(news.test)), ARTICLES)
    asked = [writing.article(news.test[place][0]) for place in places]
    small = writing.usually_small(text for text, _ in news.train)
    yield {"how": "reference", "places": places, **marks([one.title for one in asked], asked, small)}
    model, tokenizer = llama.load("smollm2")
    shots = [writing.article(text) for text, _ in random.Random(1).sample(news.train, 3)]
    for how, shown in (("asked", []), ("three examples", shots)):
        yield measured(how, 0, model, tokenizer, asked, shown, small)
    for seed in range(SEEDS):
        tuned, _ = writing.headliner(seed)
        yield measured("LoRA", seed, tuned, tokenizer, asked, [], small)


def measured(
    how: str, seed: int, model: GPT, tokenizer: llama.BPE, asked: list[Article], shots: list[Article], small: set[str]
) -> dict:
    """What a model writes, marked."""
    written = writing.headlines(model, tokenizer, [one.body for one in asked], shots)
    for one, text in list(zip(asked, written, strict=True))[:10]:
        print(f"{how}: {text!r}   (printed: {one.title!r})", file=sys.stderr, flush=True)
    return {"how": how, "seed": seed, **marks(written, asked, small)}


def marks(written: list[str], asked: list[Article], small: set[str]) -> dict[str, list]:
    """ROUGE against the printed title, words, and names and numbers that the article does not hold."""
    scorer = RougeScorer(list(KINDS))
    scores = [scorer.score(one.title, text) for one, text in zip(asked, written, strict=True)]
    return {
        **{kind: [round(score[kind].fmeasure, 4) for score in scores] for kind in KINDS},
        "words": [len(text.split()) for text in written],
        "invented": [len(writing.invented(text, one.body, small)) for one, text in zip(asked, written, strict=True)],
    }
