# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: all,-nbgrader
#     formats: ipynb,py:percent
#     notebook_metadata_filter: kernelspec,jupytext,-jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# (ch-search)=
# # Applications: finding and answering
#
# **Somebody has a question and a shelf of texts. How well can the models of this book find the passage, read the answer
# in it, know it without looking, and say in a few sentences what a text is about?**
#
# *About four minutes on two cores, half of them for what is trained or read once and kept. You need {ref}`ch-bert` for
# MiniLM and its vectors, {ref}`ch-llm` for SmolLM2, {ref}`sec-ft-span` for the head that marks a span,
# {ref}`ch-evaluation` for the marks and their intervals.*
#
# All five documents behind this book name question answering, four name summaries, one names semantic search, and
# document 1 says that the answers are "accurate" ({ref}`err-quality-claims`). None of them says how often. This chapter
# counts. Every application gets the same treatment: the task, the data, what a rule without any learning would get,
# what the classical method gets, our model, one table with intervals, its failures, a cell for your own text, and the
# limit.
#
# The plan:
#
# 1. *semantic search*: find a passage by its words, by its meaning, by both;
# 2. *closed book*: what a model knows by heart, and whether it knows when it does not know;
# 3. *open book*: read the answer in a given passage;
# 4. *with a library*: search first, then read, and name the source;
# 5. *summaries by choosing*: which sentences stand for the rest.
#
# The shelf is the same throughout, the Wikipedia corpus of {ref}`ch-text`.

# %%
import math
import random
import tempfile
from collections import Counter
from pathlib import Path

import bm25s
import numpy as np
from IPython.display import Markdown
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import ndcg_score
from tabulate import tabulate

from minilm import (
    applications,
    archive,
    clean,
    data,
    llama,
    metrics,
    plots,
    questions,
    reading,
    retrieval,
    summary,
    tasks,
    wordpiece,
)
from minilm.retrieval import Library, ranks, words

plots.use_style()

# %% [markdown]
# (sec-se-search)=
# ## Semantic search
#
# **The task.** A query comes in, and all passages of a collection are to be sorted so that those come first that the
# query asks for. It is called {term}`semantic search` where the order follows the meaning, not only the letters.
#
# **The data.** A passage is a paragraph, and a paragraph of more than a hundred words is cut between two sentences. To
# keep the chapter short we take the first 16 paragraphs of each article.

# %%
passages = retrieval.wikipedia()
library = Library(passages)
titles = np.array([passage.title for passage in passages])
print(f"{len(passages):,} passages of {len(set(titles))} articles")
print(f"words: {sum(len(passage.text.split()) for passage in passages):,}")
print(passages[700].source, "|", passages[700].text[:90], "...")

# %% [markdown]
# Queries need right answers, and nobody has marked any. So we make two sets, each with a weakness that can be named.
#
# *First sentences.* The first sentence of an article says what the article is about. With the title masked it is a
# description, as somebody might type who has the word on the tip of the tongue. Every other passage of the article
# counts as right, and the one that the sentence comes from is taken out. The right answers are certain. But nobody
# asks in sentences of an encyclopaedia.
#
# *Questions.* For this chapter a small set of questions was written, on the articles that are held out from training:
# short, in everyday words, with one right passage each. They were written before any search was tried. But whoever
# writes a question with the passage in view borrows words from it, which favours searching by words
# {cite}`rajpurkar2016`.


# %%
def masked(sentence, title):
    """A sentence without the words of the title."""
    hidden = {word[:4].lower() for word in title.split() if len(word) > 2 or len(title) < 3}
    return " ".join(word for word in sentence.split() if word[:4].lower() not in hidden)


opening = {}
for place, passage in enumerate(passages):
    opening.setdefault(passage.title, place)
opening = {title: place for title, place in opening.items() if (titles == title).sum() > 1}
first = [masked(retrieval.sentences(passages[i].text)[0], title) for title, i in opening.items()]
about = np.array([titles == title for title in opening])
for row, place in enumerate(opening.values()):
    about[row, place] = False

# %%
written = questions.written()
asked = [one.question for one in written]
holds = np.array([[passage == one.passage for passage in passages] for one in written])
print(f"{len(first)} first sentences, such as: {first[40][:80]} ...")
for one in random.Random(0).sample(written, 4):
    print(f"{one.question} -> {one.answer} ({one.passage.source})")
print(f"{len(written)} questions")

# %% [markdown]
# **Trivial baselines.** Put the passages in random order; or show everybody the same, the longest articles first. A
# search that cannot beat the second one has learnt what is popular and nothing about the query.
#
# **Classical baselines.** Both count words, here without the few hundred that stand in every text. TF-IDF weighs each
# word by its rarity and compares directions ({ref}`sec-bert-leak` used it). {term}`BM25` {cite}`robertson2009` is the
# formula that search engines have used for thirty years. For a query $q$ and a passage $p$,
#
# $$
# \text{BM25}(q, p) = \sum_{w \in q} \underbrace{\log \Bigl( 1 + \frac{N - n_w + \frac12}{n_w + \frac12}
# \Bigr)}_{\text{rarity}} \; \underbrace{\frac{c(w, p)}{c(w, p) + k_1 \bigl( 1 - b + b \, |p| / \overline{|p|}
# \bigr)}}_{\text{count, saturating}} ,
# $$ (eq-se-bm25)
#
# where $n_w$ of $N$ passages hold the word $w$, $c(w, p)$ is its count, $|p|$ the length of the passage and
# $\overline{|p|}$ the mean length. (This is the form of the program Lucene. The original multiplies by $k_1 + 1$,
# which changes no order, and has no $1 +$ in the logarithm, so that very common words count against a passage.) The
# second factor is the idea. A word that stands there twice is better than once, the tenth time adds next to nothing,
# and a long passage must say it more often. By hand, against the library that `minilm.retrieval` uses:


# %%
def bm25(query, texts, k1=1.5, b=0.75):
    bags = [Counter(words(text)) for text in texts]
    lengths = np.array([bag.total() for bag in bags])
    scores = np.zeros(len(texts))
    for word in words(query):
        counts = np.array([bag[word] for bag in bags])
        n = (counts > 0).sum()
        rarity = math.log(1 + (len(texts) - n + 0.5) / (n + 0.5))
        scores += rarity * counts / (counts + k1 * (1 - b + b * lengths / lengths.mean()))
    return scores


index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
index.index([words(text) for text in library.texts], show_progress=False)
for query in asked[:3]:
    known = [word for word in words(query) if word in index.vocab_dict]
    by_hand = bm25(query, library.texts)
    np.testing.assert_allclose(by_hand, index.get_scores(known), atol=1e-4)
    np.testing.assert_allclose(by_hand, library.bm25([query])[0], atol=1e-4)
print("three queries: by hand, bm25s and minilm agree")

# %% [markdown]
# **Our models.** MiniLM turns a text into one vector, the mean of its hidden states ({ref}`sec-bert-sentences`). It is
# a distilled encoder {cite}`wang2020`, then trained on pairs of texts that belong together, questions and answers among
# them, to make the vectors of a pair point the same way, as in {cite}`reimers2019`. So search is a product of matrices:
# the vectors of all passages, computed once and kept, times the vector of the query; the tables call it *dense*. Such a
# model is a *bi-encoder*, since query and passage never meet before the product {cite}`karpukhin2020`. A *hybrid* adds
# up the two ways. Their scores have no common unit, but ranks do. Reciprocal rank fusion {cite}`cormack2009` gives a
# passage
#
# $$
# \sum_{s \in \text{searches}} \frac{1}{60 + \operatorname{rank}_s(p)} .
# $$ (eq-se-rrf)
#
# The 60 is the authors' and was not tuned; neither was anything else in this section.

# %%
popular = np.array([(titles == title).sum() for title in titles], dtype=float)
shuffled = np.random.default_rng(0).random(len(passages))


def searches(queries):
    """The scores of every passage for every query, by name of the search."""
    same_for_all = {"random": shuffled, "longest articles first": popular}
    scores = {name: np.tile(one, (len(queries), 1)) for name, one in same_for_all.items()}
    return scores | {name: library.scores(queries, name) for name in retrieval.HOW}


by_sentence, by_question = searches(first), searches(asked)
for scores in by_sentence.values():
    scores[np.arange(len(first)), list(opening.values())] = -np.inf
vectors = library.vectors
print(f"vectors: {vectors.shape}, lengths 1: {np.allclose(np.linalg.norm(vectors, axis=1), 1)}")

# %% [markdown]
# Three marks ({ref}`ch-evaluation`): recall at $k$, here the share of queries with a right passage among the first
# $k$ (where several are right, this is also called success at $k$); and {term}`MRR <mean reciprocal rank>`, the mean
# of one over the rank of the first right one.

# %% mystnb={"figure": {"name": "tab-se-search", "caption": "Search on Wikipedia: share of queries with a right passage first, and among the first five; mean reciprocal rank; 95 % intervals. First sentences ask for any other passage of the article, questions for one passage."}}
found = {
    ("first sentences", name): ranks(scores, about) for name, scores in by_sentence.items()
} | {("questions", name): ranks(scores, holds) for name, scores in by_question.items()}
heads = ["queries", "search", "recall@1", "recall@5", "MRR"]
table = [
    (*key, metrics.recall_at(r, 1), metrics.recall_at(r, 5), metrics.mrr(r))
    for key, r in found.items()
]
Markdown(tabulate([list(map(str, row)) for row in table], heads, tablefmt="pipe"))

# %% [markdown]
# Many intervals of {numref}`tab-se-search` overlap, which does not say that the searches are equal: all of them
# answered the *same* queries, and what matters is the difference on each ({ref}`ch-evaluation`).

# %%
for kind in ("first sentences", "questions"):
    for one, other in (("dense", "bm25"), ("hybrid", "bm25"), ("hybrid", "dense")):
        gap = metrics.paired(1 / found[kind, one], 1 / found[kind, other])
        print(f"{kind}, MRR, {one} minus {other}: {gap}")

# %% [markdown]
# Which search is better depends on the query. On first sentences meaning wins clearly. The words of the title are gone,
# and a definition has few words in common with a paragraph from the middle of the article. The hybrid lies between its
# two parts: where one of them is much better, listening to the other costs something. On the questions words and
# meaning are level, and the hybrid is ahead of both, by so little that neither interval stays above zero.
# Both trivial baselines find next to nothing, so that a search is not hard to justify here. BM25 is, as a
# rule, a little better than TF-IDF and costs the same.
#
# ### Where meaning wins
#
# A search by words can find a passage only if the query shares words with it. How many it shares can be counted: of the
# words of a query, common ones aside, the share that stands in a right passage; where several are right, in the best of
# them. Queries of both sets, by this share:


# %%
def shared(query, text):
    """Share of the words of a query that the text holds."""
    return np.mean([word in set(words(text)) for word in words(query)])


queries, right = [*first, *asked], [*about, *holds]
overlap = [
    max(shared(query, passages[i].text) for i in np.flatnonzero(row))
    for query, row in zip(queries, right, strict=True)
]
group = np.digitize(overlap, [1 / 3 + 1e-9, 2 / 3 + 1e-9])
labels = ["up to a third", "up to two thirds", "more"]
print({label: int((group == i).sum()) for i, label in enumerate(labels)})

# %% mystnb={"figure": {"name": "fig-se-overlap", "caption": "Mean reciprocal rank of the first right passage, by the share of the query's words that stand in a right passage, for three searches, with 95 % intervals."}, "image": {"alt": "Dot chart with nine rows, three searches for each share. Where up to a third of the words is shared, BM25 stands at 0.57, MiniLM at 0.79, the hybrid at 0.72; up to two thirds at 0.84, 0.87 and 0.90; above at 0.97, 0.87 and 0.94."}}
marks = {}
for i, label in enumerate(labels):
    for how in ("bm25", "dense", "hybrid"):
        rank = np.concatenate([found["first sentences", how], found["questions", how]])
        marks[f"{label}: {how}"] = metrics.mrr(rank[group == i])
values, intervals = [mark.value for mark in marks.values()], [mark[1:] for mark in marks.values()]
plots.dots(list(marks), values, "mean reciprocal rank", intervals)
print({name: round(mark.value, 2) for name, mark in marks.items()})

# %% [markdown]
# {numref}`fig-se-overlap` is the answer to where each belongs. With few words in common, meaning finds what words
# cannot. With most words in common it seems to be the other way round: BM25 is hardly ever wrong, and MiniLM blurs
# what was said exactly. These are only 33 queries, and the intervals overlap. A hybrid is the choice of somebody who
# does not know which queries will come, and that is nearly everybody.
#
# ### Failures
#
# The questions on which the two differ most, with what the worse one put first.

# %% tags=["nbval-ignore-output"]
word_rank, meaning_rank = found["questions", "bm25"], found["questions", "dense"]
order = np.argsort(np.log(word_rank) - np.log(meaning_rank))
for worse, places in (("bm25", order[::-1]), ("dense", order)):
    print(f"--- worse: {worse}")
    for i in places[:4]:
        top = passages[by_question[worse][i].argmax()]
        print(f"{asked[i]} (rank by words {word_rank[i]:.0f}, by meaning {meaning_rank[i]:.0f})")
        print(f"    first: {top.source}: {top.text[:70]} ...")

# %% [markdown]
# ### On your own text
#
# `applications.load` gives the same search for a folder of your own `.txt` files; here for two notes that the cell
# writes.

# %%
notes = {"bread": "Mix flour and water. Let it rest for a day.\n\nBake it hot for 40 minutes."}
notes |= {"bicycle": "Pump up the tyres.\n\nOil the chain when it squeaks."}
with tempfile.TemporaryDirectory() as folder:
    for name, text in notes.items():
        Path(folder, f"{name}.txt").write_text(text, encoding="utf-8")
    find = applications.load("search", "hybrid", folder=folder, k=1)
    for [hit] in find(["How long in the oven?", "My bike makes a noise"]):
        print(f"{hit['title']}: {hit['text']}")

# %% [markdown]
# From a terminal, with a query on each line of `queries.txt`:
# `python -m minilm evaluate hybrid --task search --file queries.txt --folder notes`. With a file `queries.jsonl` of
# lines such as `{"query": "...", "title": "bread.txt"}` it prints recall and MRR as well.
#
# **An honest limit.** The collection is small. With two thousand passages a search that is wrong half of the time at a
# million still looks good. One vector holds what a passage is about, not each fact in it, so numbers and rare names are
# the business of words. And everything here is English; MiniLM has hardly read anything else.
#
# (sec-se-closed)=
# ## Closed book: what it knows by heart
#
# **The task.** A question, and no text to look it up in. {ref}`sec-llm-capitals` asked SmolLM2 for the capitals of 120
# countries, and 58 % of the answers were right. Here we ask the other half of the question: does
# the model know which ones?
#
# **The data.** `tasks.capitals`, the countries of five million people and more, in the one wording of chapter 12. A
# right answer holds the name of the capital as whole words; case and accents do not matter. (Chapter 12 accepted second
# capitals and other spellings from a list. Here there is no such list, so a few right answers count as wrong.)


# %%
def plain(text):
    """Lower-case words with a blank on either side, without accents and marks."""
    return f" {' '.join(w for w in wordpiece.words(wordpiece.tidy(text)) if w.isalnum())} "


def contains(said, right):
    return [plain(answer) in plain(text) for text, answer in zip(said, right, strict=True)]


pairs = [pair for part in tasks.capitals(5_000_000).values() for pair in part]
countries = [pair.names[0] for pair in pairs]
capitals = [pair.target for pair in pairs]
print(f"{len(pairs)} countries; {pairs[0].source} -> {pairs[0].target}")

# %% [markdown]
# **Baselines.** The most frequent answer is worth nothing where every answer occurs once: whoever always says the same
# city is right once. Two others do not even need a model. *Say the name of the country* (Mexico City, Guatemala City),
# which chance and colonial history make right now and then. And the classical one, a nearest neighbour: take the
# question of *another* country whose letters are most alike, and give its answer. It is the simplest memory there is,
# and knowledge of one country says nothing about the next.

# %%
letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4)).fit_transform(countries)
alike = (letters @ letters.T).toarray()
np.fill_diagonal(alike, -1)
neighbours = [capitals[i] for i in alike.argmax(1)]
model, tokenizer = llama.load()
wording = [pair.source.removeprefix(tasks.PREFIXES["capital"]) for pair in pairs]
answers = reading.ask(model, tokenizer, wording, 16)
for pair, answer in list(zip(pairs, answers, strict=True))[:4]:
    print(f"{pair.names[0]}: {answer.text}")

# %% mystnb={"figure": {"name": "tab-se-closed", "caption": "Capitals by heart: share of answers that hold the right name, with 95 % intervals."}}
said = {
    "always the first capital of the list": [capitals[0]] * len(pairs),
    "the capital of the country with the most similar name": neighbours,
    "the name of the country and City": [f"{name} City" for name in countries],
    "SmolLM2": [answer.text for answer in answers],
}
right = {name: contains(texts, capitals) for name, texts in said.items()}
table = [(name, str(metrics.share(marks))) for name, marks in right.items()]
Markdown(tabulate(table, ["answers", "right"], tablefmt="pipe"))

# %% [markdown]
# ### Answer or abstain
#
# The model gives every token a probability, so it gives one to the whole answer: the product, whose logarithm
# `reading.ask` returns. If wrong answers are less likely than right ones, a program can refuse to pass them on. For
# every threshold that leaves a share of the questions answered (*coverage*), we ask how many of these are right. A
# model that knows nothing about its own knowledge gives a level line; one that knows all about it answers the right
# ones first.

# %% mystnb={"figure": {"name": "fig-se-abstain", "caption": "Answer or abstain: accuracy of the answers given, by the share of questions that are answered, the most likely answers first. Level: an order that knows nothing. Top: an order that knows everything. The left end rests on few answers."}, "image": {"alt": "Line chart over the share of questions answered. The curve by probability stays near 0.8 to 0.9 up to half of the questions and falls to 0.55 at all of them; the perfect order stays at 1 until 0.55 and falls to the same end; a level line stands at 0.55."}}
hits = np.array(right["SmolLM2"], dtype=float)
sureness = np.exp([answer.score for answer in answers])
n = np.arange(1, len(hits) + 1)
curves = {
    "the likeliest answers first": np.cumsum(hits[np.argsort(-sureness, kind="stable")]) / n,
    "an order that knows everything": np.cumsum(np.sort(hits)[::-1]) / n,
    "any order, on average": np.full(len(hits), hits.mean()),
}
shown = {name: y[9:] for name, y in curves.items()}  # fewer than ten answers say little
ax = plots.lines((n / len(n))[9:], shown, "share answered", "share right")
ax.legend(loc="lower left")
for share in (0.25, 0.5, 1.0):
    k = round(share * len(n))
    print(f"answering {share:.0%}: right {curves['the likeliest answers first'][k - 1]:.2f}")

# %%
print(f"mean probability of an answer: {sureness.mean():.2f}; right: {hits.mean():.2f}")
print(f"calibration error: {metrics.calibration_error(sureness, hits)}")
print(f"Brier score: {metrics.brier(sureness, hits)}; of the mean alone: {hits.var():.2f}")

# %% [markdown]
# The share of right answers in {numref}`tab-se-closed` agrees with chapter 12's, as it should: it is nearly the same
# list. No rule comes near it, so this is knowledge. Now look at {numref}`fig-se-abstain`: the more likely half of the
# answers is right far more often than the whole. The model does know, in a way, what it knows. But its numbers must not
# be taken at their word. The mean probability of an answer is near 0.1, and more than half are right: the calibration
# error is nearly the whole difference. The probability is that of a *wording*, to the last token. So sort by it, and do
# not read it.
#
# Both kinds of exceptions:

# %% tags=["nbval-ignore-output"]
order = np.argsort(-sureness, kind="stable")
for label, wanted in (("sure and wrong", 0.0), ("unsure and right", 1.0)):
    some = [i for i in (order if not wanted else order[::-1]) if hits[i] == wanted][:5]
    print(f"--- {label}")
    for i in some:
        print(f"{sureness[i]:.2f}  {countries[i]} ({capitals[i]}): {answers[i].text}")

# %% [markdown]
# Some of the sure and wrong are our own fault, as announced: the list has one spelling for each city. Others are the
# largest city of the country, as in chapter 12. They come in the same words as the right ones, and that is what
# {term}`hallucination` looks like. The unsure and right are those with an unusual wording, as the last paragraph said.
#
# ### On your own questions

# %% tags=["nbval-ignore-output"]
mine = [{"question": "What is the capital of Peru?", "answer": "Lima"}]
mine += [{"question": "Who wrote Hamlet?", "answer": "William Shakespeare"}]
result = applications.run("answer", mine, "smollm2")
print([one["answer"] for one in result["outputs"]])
print({name: str(mark) for name, mark in result["measures"].items()})

# %% [markdown]
# In a terminal: `python -m minilm evaluate smollm2 --task answer --file questions.jsonl`.
#
# **An honest limit.** One wording, and facts that stand in thousands of texts. What is written about seldom is known
# less {cite}`kandpal2023`, and a probability of the *wording* is not one of the *fact*: an answer that can be said in
# many ways divides its probability among them.
#
# (sec-se-span)=
# ## Open book: the answer in a passage
#
# **The task.** A question and a passage that answers it; the answer is a *span* of the passage, marked letter for
# letter. The best known set of this form is SQuAD, 100,000 questions that paid workers wrote about Wikipedia passages
# {cite}`rajpurkar2016`, for years the yardstick of the field. With a network it is one line,
# `datasets.load_dataset("squad")`. BERT's score on it is above that of people {cite}`devlin2019`, and the readers of
# 2017, before BERT, lost much of theirs when one sentence that answers nothing was added to each passage
# {cite}`jia2017`. So a score says how well a model does on *such* questions.
#
# **The data.** Offline there is no SQuAD, so we make a set of its form. To *train*, a rule makes questions: it takes
# a date, a number or a name out of a sentence, and asks for it with most of the words left over {cite}`lewis2019`.
# Such questions are bad English, and there can be thousands of them. The articles that are held out from training
# give a *first test*, of the same making. The *second test* is the set of written questions of the first section,
# about the same held-out articles. The first test holds out the texts; the second one holds out the wording too, and
# that is what {ref}`sec-ft-span` has taught us to ask for.

# %%
corpus = data.load("wikipedia")
parts = {"train": corpus.train, "held out": (*corpus.validation, *corpus.test)}
made = {
    name: questions.made(retrieval.passages(some, retrieval.MOST)) for name, some in parts.items()
}
test = {"made by the rule": made["held out"][:200], "written": written}
print({name: len(some) for name, some in made.items()})
for one in made["train"][:4]:
    print(f"{one.question} -> {one.answer}")

# %% [markdown]
# **Baselines.** The kind of answer can be told from the question: *when* asks for a date, *how many* for a number. The
# trivial baseline takes a random span of that kind in the passage. The classical one slides a window over the passage
# and takes the span whose surroundings share most words with the question {cite}`richardson2013`.


# %%
def random_span(one):
    spans = questions.fitting(one.question, one.passage.text)
    choice = random.Random(one.question).choice(spans) if spans else None
    return one.passage.text[choice.start : choice.end] if choice else ""


def window(one, reach=80):
    """The span with most words of the question within 80 letters on either side."""
    text, asks = one.passage.text, set(words(one.question))
    around = lambda s: set(words(text[max(0, s.start - reach) : s.end + reach]))
    own = lambda s: set(words(text[s.start : s.end]))
    score = lambda s: len(asks & around(s)) - 2 * len(asks & own(s))
    spans = questions.fitting(one.question, text)
    best = max(spans, key=score, default=None)
    return text[best.start : best.end] if best else ""


# %% [markdown]
# **Our model.** MiniLM and a `SpanHead`, one score for each token as the first of the answer and one as the last
# ({eq}`eq-ft-span`). It is trained on the rule's questions about the training articles, for 120 steps of 16, and kept.
# The lower half of the encoder stays as it is: with all blocks in motion a training as short as this one learns
# half as much. The answer can be any words in a row; or the head may choose only among the spans of the right kind,
# the same as the baselines. That is a constraint on what is written, as in {ref}`ch-classification`: the rule says what
# an answer looks like, the network says which one it is.

# %%
reader = reading.span_reader()


def read(some, kinds):
    found = reader([one.question for one in some], [one.passage for one in some], kinds)
    return [answer.text for answer in found]


free = {name: read(some, kinds=False) for name, some in test.items()}
spans = {name: read(some, kinds=True) for name, some in test.items()}

# %% tags=["nbval-ignore-output"] mystnb={"figure": {"name": "tab-se-span", "caption": "The answer in a given passage: share of answers that match exactly, and mean F1 of their words, after SQuAD's normalisation; 95 % intervals. No article of either test was trained on."}}
table, marks = [], {}
for name, some in test.items():
    truth = [one.answer for one in some]
    guesses = {
        "random span of the right kind": [random_span(one) for one in some],
        "sliding window": [window(one) for one in some],
        "span head, any words": free[name],
        "span head, the right kind": spans[name],
    }
    for who, texts in guesses.items():
        rows = zip(texts, truth, strict=True)
        marks[name, who] = [metrics.token_f1([said], [right]).value for said, right in rows]
        scores = metrics.exact_match(texts, truth), metrics.token_f1(texts, truth)
        table.append((name, who, *map(str, scores)))
Markdown(tabulate(table, ["questions", "who answers", "exact match", "F1"], tablefmt="pipe"))

# %% tags=["nbval-ignore-output"]
for name in test:
    best = marks[name, "span head, the right kind"]
    for other in ("span head, any words", "sliding window"):
        print(
            f"{name}: F1, the right kind minus {other}: {metrics.paired(best, marks[name, other])}"
        )

# %% [markdown]
# Read {numref}`tab-se-span` from top to bottom. The random span shows what the kind alone is worth. The sliding window
# is strong on the rule's questions, and no wonder: it chooses from the same patterns that took the answer out, and the
# question is made of the words around the gap. Left free, the span head is behind it there, and no better on the
# written ones. Two minutes of training do not teach what an answer looks like. Together with the rule it gains a great
# deal on both tests, and has the highest F1 on the written questions; the line printed last says how sure a
# lead over the window is on so few questions.
#
# And everybody loses about half of the exact matches from the first test to the second one. The articles are equally
# new in both. What changed is who asked. If a test is made by the rule that made the training set, it measures how well
# the rule was learned. A sample of the failures:

# %% tags=["nbval-ignore-output"]
misses = [
    (one, text)
    for one, text in zip(written, spans["written"], strict=True)
    if not metrics.token_f1([text], [one.answer]).value
]
print(f"{len(misses)} of {len(written)} share no word with the answer; some of them:")
for one, text in random.Random(2).sample(misses, min(8, len(misses))):
    print(f"{one.question}\n    said {text!r}, right {one.answer!r}")

# %% [markdown]
# ### On your own text

# %% tags=["nbval-ignore-output"]
mine = [
    {
        "question": "When was the bridge built?",
        "passage": "The town lies on the Aare. Its bridge was built in 1571 by Hans Zehnder.",
    }
]
for answer in applications.load("answer")(mine):
    print(answer["answer"])

# %% [markdown]
# In a terminal: `python -m minilm evaluate span-reader --task answer --file questions.jsonl`, each line with a
# question, a passage, and an answer if it is to be marked.
#
# **An honest limit.** The reader always marks something, even where the passage does not answer. SQuAD's second
# version added such questions {cite}`rajpurkar2018`, and ours never saw one. Its answers look like what the rule took
# out, so it is weak where the answer is a common noun or a phrase.
#
# (sec-se-library)=
# ## With a library: search, then read, and name the source
#
# **The task.** A question and no passage, but the whole shelf: find passages, read the answer in them, and say where it
# stands {cite}`chen2017`. Where a language model does the reading, this is called
# {term}`retrieval-augmented generation` {cite}`lewis2020rag`. The promise is large: knowledge that can be exchanged
# without training, and sources that can be checked. Two things can fail, and they should be told apart. The passage may
# be the wrong one, and the right passage may be misread.
#
# **Who answers.** The baselines come first. *Closed book* is SmolLM2 with the question alone. The *title* of the
# first passage found is a trivial answer to some questions. *Search and window* is classical from end to end: BM25,
# then the sliding window. Then our models: the span reader on one, three or five passages, and SmolLM2 with the first
# passage before the question. With several passages each span is scored by the two factors of {cite}`lewis2020rag`,
# and the best span of the best passage is the answer (they add up over the passages instead),
#
# $$
# P(a, p \mid q) = P(p \mid q)\, P(a \mid p, q), \qquad P(p \mid q) \propto e^{20 \cos(q, p)},
# $$ (eq-se-rag)
#
# where the first factor is the softmax that MiniLM was trained with, and the second one the reader's. And as upper
# bounds, both readers with the passage that was meant.


# %%
def top(k, how="hybrid"):
    """For each question the first k passages, by the scores of the first section."""
    order = np.argsort(-by_question[how], axis=1, kind="stable")[:, :k]
    return [[passages[i] for i in row] for row in order]


first_by_words, first_by_both = ([hits[0] for hits in top(1, how)] for how in ("bm25", "hybrid"))
replaced = lambda hits: [one._replace(passage=hit) for one, hit in zip(written, hits, strict=True)]
spoken = lambda texts: [answer.text for answer in reading.ask(model, tokenizer, texts)]
gold = [reading.prompt(one.question, one.passage.text) for one in written]
given = [reading.prompt(q, hit.text) for q, hit in zip(asked, first_by_both, strict=True)]
print(given[0])

# %%
replies = dict.fromkeys([*asked, *gold, *given])
replies = dict(zip(replies, spoken(list(replies)), strict=True))
said = {
    ("closed book", "SmolLM2"): [replies[text] for text in asked],
    ("first passage", "its title"): [hit.title for hit in first_by_both],
    ("first passage by BM25", "sliding window"): list(map(window, replaced(first_by_words))),
    ("first passage", "SmolLM2"): [replies[text] for text in given],
    ("the passage meant", "SmolLM2"): [replies[text] for text in gold],
    ("the passage meant", "span reader"): spans["written"],
}
looked_up = {k: reading.look_up(asked, library, reader, k) for k in (1, 3, 5)}
for k, cited in looked_up.items():
    said[f"best of {k} passages" if k > 1 else "best passage", "span reader"] = [
        answer.text for answer in cited
    ]

# %% [markdown]
# Two marks. *Holds the answer* is lenient: the right words stand somewhere in what was said. F1 also asks that not
# much else is said. The column *in the passage* is what the search leaves for the reader: how often the letters of
# the right answer stand in what was read. That is a little more than how often the passage meant was found, since a
# short answer such as *ten* also stands elsewhere by chance.

# %% tags=["nbval-ignore-output"] mystnb={"figure": {"name": "tab-se-library", "caption": "The written questions, answered from memory, from what a search finds, and from the passage that was meant: share of replies that hold the answer, mean F1, and how often the answer stands in what was read; 95 % intervals."}}
truth = [one.answer for one in written]
inside = {"the passage meant": [True] * len(asked)}
for name, lists in {
    "first passage": top(1), "first passage by BM25": top(1, "bm25"),
    "best passage": top(1), "best of 3 passages": top(3), "best of 5 passages": top(5),
}.items():  # fmt: skip
    texts = [" ".join(hit.text for hit in some) for some in lists]
    inside[name] = [answer in text for answer, text in zip(truth, texts, strict=True)]
share = lambda marks: str(metrics.share(marks))
table = [
    (what, who, share(inside[what]) if what in inside else "", share(contains(texts, truth)),
     str(metrics.token_f1(texts, truth)))
    for (what, who), texts in said.items()
]  # fmt: skip
heads = ["what is read", "who answers", "in the passage", "holds the answer", "F1"]
Markdown(tabulate(sorted(table, key=lambda row: row[3]), heads, tablefmt="pipe"))

# %% tags=["nbval-ignore-output"]
held = {key: np.array(contains(texts, truth), dtype=float) for key, texts in said.items()}
for one, other in (
    (("first passage", "SmolLM2"), ("closed book", "SmolLM2")),
    (("the passage meant", "SmolLM2"), ("first passage", "SmolLM2")),
    (("best of 3 passages", "span reader"), ("best passage", "span reader")),
    (("first passage", "SmolLM2"), ("best passage", "span reader")),
):
    print(f"{' / '.join(one)} minus {' / '.join(other)}: {metrics.paired(held[one], held[other])}")

# %% [markdown]
# {numref}`tab-se-library` is sorted by the share that holds the answer. From memory SmolLM2 answers next to nothing,
# since nobody knows by heart how many dens an aardwolf has. One passage in front of the question takes it from about
# one answer in twenty to about one in two, the largest step of the chapter. The passage that was meant would add
# little: the search is good, and what is lost is lost in reading. The upper bound says so plainly, since half of the
# questions stay open with the right passage on the table.
#
# The two marks disagree about who reads best. SmolLM2's replies *hold* the answer more often here, though one end of
# the interval of that difference lies near zero; its F1 is the lowest of the three readers, by far: it answers in
# sentences, and often in more than one. The span reader says nothing but its span. Which of the two marks counts
# depends on who reads the answer, a person or a program.
#
# More passages do not help the span reader, although the answer then is in them nearly always. Every further passage
# holds more wrong spans, too, and the reader's probabilities are too coarse to tell a span in the right passage from
# one in the wrong one: it has been trained on passages that do answer.
#
# ### The answers with their sources

# %% tags=["nbval-ignore-output"]
for one, answer in list(zip(written, looked_up[3], strict=True))[::14]:
    print(f"{one.question}\n    {answer.text} [{answer.passage.source}]")

# %% [markdown]
# ### Failures, by their cause

# %%
ok = held["first passage", "SmolLM2"] == 1
there = np.array(inside["first passage"])
causes = {
    "right passage, right answer": there & ok,
    "right passage, wrong answer": there & ~ok,
    "wrong passage, wrong answer": ~there & ~ok,
    "wrong passage, right answer": ~there & ok,
}
for name, some in causes.items():
    print(f"{name}: about {some.mean():.1f}")

# %% tags=["nbval-ignore-output"]
for name in ("right passage, wrong answer", "wrong passage, wrong answer"):
    print(f"--- {name}")
    for i in np.flatnonzero(causes[name])[:5]:
        print(f"{asked[i]} (right: {truth[i]})")
        print(f"    {replies[given[i]]!r}, from {first_by_both[i].source}")

# %% [markdown]
# *Right passage* means here that the letters of the answer stand in it. *Right passage, wrong answer* is the larger
# class. Some of these replies are right for a person and wrong for the mark, a name shortened or an answer in other
# words; some repeat a sentence next to the one that was meant; some are invented although the text lay in front of
# the model, in the same even tone. In the second class the source is, in the printed cases, another paragraph of the
# right article. The name alone looks right; whoever reads the paragraph sees that the answer is not in it. That is
# the use of a source, and what it asks of the reader.
#
# ### On your own folder

# %% tags=["nbval-ignore-output"]
with tempfile.TemporaryDirectory() as folder:
    Path(folder, "minutes.txt").write_text(
        "The meeting on 3 May 2024 was led by Irene Kovacs.\n\n"
        "The roof of the library will be repaired in June. It costs 12,400 euros.",
        encoding="utf-8",
    )
    answer = applications.load("answer", folder=folder)
    for reply in answer(["Who led the meeting?", "How much will the roof cost?"]):
        print(f"{reply['answer']} [{reply['title']}, paragraph {reply['paragraph']}]")

# %% [markdown]
# In a terminal: `python -m minilm evaluate span-reader --task answer --file questions.txt --folder notes`.
#
# **An honest limit.** A source is named, and that is not a proof: the passage may be real, and the answer not in it.
# All our questions have an answer on the shelf. In use many have none, and neither reader can say so. Retrieval does
# not end hallucination; it makes it possible to catch one by reading the source.
#
# (sec-se-summary)=
# ## Summaries by choosing
#
# **The task.** Say in few words what a long text says. The honest small version is *extractive*: choose whole sentences
# of the text, so that each of them is at least as true as the text was. ({ref}`ch-writing` writes headlines in words of
# its own.)
#
# **The data.** A Wikipedia article begins with a lead, a summary by its authors. So the text is the rest of the
# article, the reference is its lead, and the summary may have as many words as the lead has. Of the rest we take the
# ten paragraphs after the lead, to save time.

# %%
files = archive.members(data.card("wikipedia"), "/enwiki-latest-pages-articles1")
leads = clean.leads(files)
articles = []
for document in (*corpus.train, *corpus.validation, *corpus.test):
    paragraphs, size = document.text.split("\n\n"), len(leads[document.title])
    lead, body = " ".join(paragraphs[:size]), " ".join(paragraphs[size : size + 10])
    if len(lead.split()) >= 40 and len(body.split()) >= 600:
        articles.append((document.title, lead, retrieval.sentences(body)))
articles = random.Random(0).sample(articles, 40)
print(f"{len(articles)} articles, {sum(len(body) for *_, body in articles):,} sentences")
print(f"words of a lead: {np.median([len(lead.split()) for _, lead, _ in articles]):.0f} (median)")

# %% [markdown]
# **Baselines.** Random sentences. The first sentences of the body, which is a strong baseline wherever people put the
# important things first; for news it took the field years to beat it {cite}`nenkova2005`.
#
# **Classical.** {term}`TextRank` {cite}`mihalcea2004` takes the sentences as places and the words they share as roads
# between them. A walker follows the roads, and now and then, with probability $1 - d$, jumps anywhere. The share of
# time $r_i$ that he spends in sentence $i$ obeys
#
# $$
# r_i = \frac{1 - d}{N} + d \sum_j \frac{s_{ji}}{\sum_k s_{jk}}\, r_j , \qquad
# s_{ij} = \frac{|w_i \cap w_j|}{\log |w_i| + \log |w_j|} ,
# $$ (eq-se-textrank)
#
# where $w_i$ is the set of words of sentence $i$, common ones aside; the formula is for $i \neq j$, and $s_{ii} = 0$,
# since a sentence must not vote for itself. It is Google's PageRank {cite}`brin1998` on sentences, and the solution
# is an eigenvector. Repeating the step finds it; a solver for eigenvectors must agree.

# %%
texts = articles[0][2]
weights = summary.similarity(texts)
steps = weights / weights.sum(1, keepdims=True).clip(1e-12)
steps[weights.sum(1) == 0] = 1 / len(texts)
matrix = 0.85 * steps.T + 0.15 / len(texts)
rank = np.full(len(texts), 1 / len(texts))
for _ in range(100):
    rank = matrix @ rank
values, columns = np.linalg.eig(matrix)
leading = columns[:, values.real.argmax()].real
np.testing.assert_allclose(rank, leading / leading.sum(), atol=1e-9)
np.testing.assert_allclose(rank, summary.pagerank(weights), atol=1e-9)
print(f"eigenvalue {values.real.max():.6f}; sentence ranked first: {texts[rank.argmax()][:80]} ...")

# %% [markdown]
# **Our model.** The centroid: MiniLM's vectors of all sentences, their mean, and the sentences that come nearest to
# it {cite}`radev2004`. **Upper bound.** An oracle that sees the lead and adds, one by one, the sentence that shares
# most with it. For ROUGE-1 a choice of sentences can hardly do much better; pairs and the order of words it does not
# look at. The rest of the way to 1 belongs to the task.
#
# The mark is {term}`ROUGE`, the share of words (ROUGE-1), of pairs of words (ROUGE-2), and the longest common sequence
# (ROUGE-L) that summary and reference share, as F1 {cite}`lin2004`.


# %%
def summarised(how):
    """The summary of each article, as long as its lead."""
    made = []
    for title, lead, body in articles:
        most = len(lead.split())
        scores = np.random.default_rng(len(title)).random(len(body)) if how == "random" else None
        if how == "oracle":
            places = summary.oracle(body, lead, most)
        else:
            scores = summary.HOW[how](body) if scores is None else scores
            places = summary.chosen(body, scores, most)
        made.append(" ".join(body[i] for i in places))
    return made


summaries = {how: summarised(how) for how in ("random", "first", "textrank", "centroid", "oracle")}
references = [lead for _, lead, _ in articles]

# %% mystnb={"figure": {"name": "tab-se-summary", "caption": "Summaries of 40 articles by whole sentences of the body, marked against the lead: mean ROUGE F1 with 95 % intervals. The oracle has seen the lead."}}
kinds = ("rouge1", "rouge2", "rougeL")
each = {
    (how, kind): [
        metrics.rouge([a], [b], kind).value for a, b in zip(made, references, strict=True)
    ]
    for how, made in summaries.items()
    for kind in kinds
}
mean = lambda marks: str(metrics.estimate(np.mean, marks))
table = [(how, *(mean(each[how, kind]) for kind in kinds)) for how in summaries]
Markdown(tabulate(table, ["sentences", "ROUGE-1", "ROUGE-2", "ROUGE-L"], tablefmt="pipe"))

# %%
for gap in ("first random", "textrank first", "centroid first", "centroid textrank"):
    one, other = gap.split()
    difference = metrics.paired(each[one, "rouge1"], each[other, "rouge1"])
    print(f"ROUGE-1, {one} minus {other}: {difference}")

# %% [markdown]
# The whole field lies within 0.02 of the random sentences, and the oracle in ROUGE-1 0.1 above. Whoever publishes the
# middle rows of {numref}`tab-se-summary` without the first has published a number that means nothing. The paired
# differences say what is left: the centroid is ahead of the first sentences by as much as can be seen with 40
# articles, TextRank and the centroid are level, and the first sentences are no better than random ones. That last
# line is special to this text. In news the first sentences are the summary. Here the summary was cut off, it is the
# reference, and what follows it begins with the origin of the word.
#
# Why are random sentences so good? Because any two texts of the same article share the words that every text has, and
# the ones the article is about. ROUGE-2, which asks for pairs of words, is about a fifth of ROUGE-1, and there the ways
# differ more in proportion.

# %% tags=["nbval-ignore-output"]
worst = np.argsort(each["centroid", "rouge1"])[:2]
for i in worst:
    title, lead, body = articles[i]
    print(f"{title}: ROUGE-1 {each['centroid', 'rouge1'][i]:.2f}")
    print(f"    lead: {lead[:150]} ...")
    print(f"    centroid: {summaries['centroid'][i][:150]} ...")

# %% [markdown]
# The centroid is drawn to where the sentences are many. If half of the paragraphs are about one thing, the order
# of battle of an army or the robots in films, so is the summary; the lead has a sentence for each thing, however long
# its paragraphs.
#
# ### On your own text

# %%
text = (
    "The council met on Monday. It spoke for hours about the bridge. Repairs of the bridge would "
    "cost two million. A new bridge would cost five. Tea was served. The council will decide "
    "about the bridge in May."
)
for how in ("centroid", "textrank", "first"):
    print(f"{how}: {applications.load('summarise', how, most=16)([text])[0]}")

# %% [markdown]
# In a terminal: `python -m minilm evaluate centroid --task summarise --file texts.txt`, with a text on each line.
#
# **An honest limit.** ROUGE counts words. ROUGE-1 cannot tell a good summary from the same words in another order,
# and none of the three sees a missing *not*. And there are more good summaries of an article than its lead. Sentences
# taken out of their place say "it" and "this" of things that were left behind.
#
# ## The answer
#
# *Finding.* The right passage is among the first five nine times in ten. Words and meaning fail on different queries:
# meaning wins where few words are shared, words win where many are, and both together are the safe choice. *Knowing.*
# SmolLM2 knows a little more than half of the capitals, hardly anything about this shelf, and its probabilities sort
# the right answers from the wrong ones although they are not to be taken at their word. *Reading.* With the right
# passage in front of it about half of the questions are answered, by either reader's own mark, and the passage matters
# far more than who reads it. *Summing up.* Choosing sentences by the centre of their meaning is a little better than
# taking the first ones, and far from what choosing could do. The essays' "accurate answers" are, at this size, one out
# of two.
#
# ## What we learnt
#
# - A search is measured on queries, and who wrote the queries decides who wins. Report more than one set.
# - BM25 is three ideas in a line: rarity, a count that saturates, a length that is divided out. It is hard to beat
#   where query and passage share words.
# - One vector for each passage finds what is said in other words, and blurs what is said exactly.
# - Ranks can be added where scores cannot.
# - The probability of an answer can sort without being calibrated: good enough for abstaining, useless as a number.
# - A baseline that shares its rules with the maker of the test looks strong on that test. Hold out the wording too.
# - A constraint on the answer can be worth more than training.
# - Put search before reading and measure both: was the answer in the passage, and was it read?
# - A source makes an error visible, it does not prevent it.
# - In summaries random sentences come close, and the mark is to blame as much as the methods.
#
# ## Exercises
#
# ```{exercise} Fusing rankings
# :label: ex-se-fuse
#
# A search engine usually returns its first hits only, not a score for every passage. Write `fuse(rankings,
# constant=60)`: each ranking is a list of names, the best first, and a name may be missing in some. Return all names,
# the best first, by {eq}`eq-se-rrf`; a ranking in which a name is missing adds nothing. Ties go by the alphabet.
# ```


# %% tags=["exercise"]
def fuse(rankings, constant=60):
    """Names of several rankings by the sum of 1 / (constant + rank)."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def fuse(rankings, constant=60):
    """Names of several rankings by the sum of 1 / (constant + rank)."""
    scores = Counter()
    for ranking in rankings:
        for rank, name in enumerate(ranking, start=1):
            scores[name] += 1 / (constant + rank)
    return sorted(scores, key=lambda name: (-scores[name], name))


# %% tags=["check"]
assert fuse([["a", "b", "c"]]) == ["a", "b", "c"]
assert fuse([["a", "b"], ["b", "c"]]) == ["b", "a", "c"], "in both lists beats first in one"
assert fuse([["b"], ["a"]]) == ["a", "b"], "a tie goes by the alphabet"
assert fuse([["a", "x", "y", "b"], ["b", "z", "y", "a"]], constant=0)[:2] == ["a", "b"]
assert fuse([["a", "b", "c", "d"], ["c", "d"], ["d"]], constant=0)[0] == "d"
assert fuse([["a", "b"], ["c", "b"]], constant=0) == ["a", "b", "c"], "1, 1/2 + 1/2 and 1"
print("fused")

# %% [markdown]
# ```{exercise} More than one right passage
# :label: ex-se-ndcg
#
# MRR stops at the first right passage. Where several are right, to different degrees, one uses the *normalised
# discounted cumulative gain* {cite}`jarvelin2002`: a passage at rank $r$ with relevance $g_r$ adds $g_r / \log_2(r +
# 1)$, and the sum over the first $k$ is divided by the best sum any order could have. Write `ndcg(scores, relevance,
# k)` for one query, two lists of numbers, one for each passage. It is 0 where nothing is relevant. No two scores are
# equal, and `k` may be larger than the number of passages.
# ```


# %% tags=["exercise"]
def ndcg(scores, relevance, k):
    """The discounted gain of the k best scores, as a share of what is possible."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def ndcg(scores, relevance, k):
    """The discounted gain of the k best scores, as a share of what is possible."""
    gain = lambda order: sum(relevance[i] / math.log2(r + 2) for r, i in enumerate(order[:k]))
    places = range(len(scores))
    best = gain(sorted(places, key=lambda i: -relevance[i]))
    return gain(sorted(places, key=lambda i: -scores[i])) / best if best else 0.0


# %% tags=["check"]
rng = np.random.default_rng(0)
for k in (1, 3, 10):
    for _ in range(20):
        marks, gains = rng.permutation(10).tolist(), rng.integers(0, 4, 10).tolist()
        wrong = ndcg(marks, gains, k) - ndcg_score([gains], [marks], k=k)
        assert abs(wrong) < 1e-9, "as scikit-learn; and the lists stay as they were"
assert ndcg([1.0, 2.0], [0, 0], 2) == 0 and ndcg([1.0], [3], 1) == 1, "none, or only one"
assert abs(ndcg([1.0, 2.0], [1, 0], 9) - 0.6309) < 1e-4, "fewer passages than k"
assert ndcg([3.0, 2.0, 1.0], [0, 0, 5], 2) == 0 and abs(ndcg([1.0, 2.0], [1, 0], 2) - 0.6309) < 1e-4
print("as scikit-learn has it")

# %% [markdown]
# ```{exercise} One number for abstaining
# :label: ex-se-abstain
#
# {numref}`fig-se-abstain` is a curve; to compare two models one wants a number. Write `risk(sureness, right)`: answer
# the surest question, then the two surest, and so on, note the share of *wrong* answers each time, and return the mean
# of these shares (the area under the risk-coverage curve). `right` holds 1 and 0. Equal sureness: in the order given.
# ```


# %% tags=["exercise"]
def risk(sureness, right):
    """Mean share of wrong answers over all numbers of questions answered, the surest first."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def risk(sureness, right):
    """Mean share of wrong answers over all numbers of questions answered, the surest first."""
    order = sorted(range(len(right)), key=lambda i: -sureness[i])
    wrong = np.cumsum([1 - right[i] for i in order])
    return float(np.mean(wrong / np.arange(1, len(right) + 1)))


# %% tags=["check"]
assert risk([0.9, 0.5], [1, 0]) == 0.25 and risk([0.5, 0.9], [1, 0]) == 0.75
assert risk([0.3, 0.3, 0.3], [1, 1, 1]) == 0 and risk([0.3, 0.3], [0, 0]) == 1
assert abs(risk([3, 2, 1], [1, 0, 1]) - (0 + 1 / 2 + 1 / 3) / 3) < 1e-12
given = [0, 1, 1, 0, 0] * 8
ordered = risk(list(range(40, 0, -1)), given[::2] + given[1::2])
assert abs(risk([0.9, 0.5] * 20, given) - ordered) < 1e-12, "ties in the order given"
assert abs(risk([0.5] * 4, [0, 1, 0, 0]) - (1 + 1 / 2 + 2 / 3 + 3 / 4) / 4) < 1e-12, "the same"
level = np.mean([risk(np.random.default_rng(s).random(len(hits)), hits) for s in range(200)])
assert abs(level - (1 - hits.mean())) < 0.03, "a random order risks the mean"
print(f"SmolLM2 {risk(sureness, hits):.1f}, a random order {level:.1f}")

# %% [markdown]
# ```{exercise} A summary that does not repeat itself
# :label: ex-se-mmr
#
# The centroid likes sentences that say the same. *Maximal marginal relevance* {cite}`carbonell1998` takes, one by one,
# the sentence with the highest $\lambda \, a_i - (1 - \lambda) \max_{j \in \text{taken}} v_i \cdot v_j$, where $a_i =
# v_i \cdot \bar v$ is the closeness to the mean; for the first one the second term is 0. Write `mmr(table, n, weight)`
# for the rows $v_i$ of a matrix and $\lambda$ = `weight`: a list of the places of $n$ sentences in the order in which
# they are taken.
# ```


# %% tags=["exercise"]
def mmr(table, n, weight=0.5):
    """Places of n rows: near the mean, far from those already taken."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def mmr(table, n, weight=0.5):
    """Places of n rows: near the mean, far from those already taken."""
    near, alike, taken = table @ table.mean(0), table @ table.T, []
    while len(taken) < n:
        again = alike[:, taken].max(1) if taken else np.zeros(len(table))
        score = weight * near - (1 - weight) * again
        score[taken] = -np.inf
        taken.append(int(score.argmax()))
    return taken


# %% tags=["check"]
twins = np.array([[1.0, 0.0], [0.99, 0.1], [0.0, 1.0]])
assert mmr(twins, 2, 1.0) == [1, 0], "without the second term: the nearest two"
assert mmr(twins, 2, 0.5) == [1, 2], "with it: the second one is different"
five = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [-1, 0], [0.6, -0.8]])
assert mmr(five, 4) == [0, 3, 2, 4], "the most similar one taken counts"
assert mmr(np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 1.0]]), 3) == [0, 2, 1], "products, not cosines"
table = retrieval.vectors(texts)
assert mmr(table, 3, 1.0) == np.argsort(-(table @ table.mean(0)), kind="stable")[:3].tolist()
assert len(set(mmr(table, 8, 0.3))) == 8
print("different sentences")

# %% [markdown]
# ## Further reading
#
# - Manning, Raghavan and Schütze {cite}`manning2008`: search from the ground up, free to read.
# - Robertson and Zaragoza {cite}`robertson2009`: where every term of BM25 comes from.
# - Karpukhin and colleagues {cite}`karpukhin2020`: questions and passages as vectors, against BM25. Thakur and
#   colleagues {cite}`thakur2021`: on texts of another kind BM25 is hard to beat.
# - Rajpurkar and colleagues {cite}`rajpurkar2016` and Jia and Liang {cite}`jia2017`: a yardstick, and what it missed.
# - Lewis and colleagues {cite}`lewis2020rag`: search and generation trained together.
# - Kandpal and colleagues {cite}`kandpal2023`: how often a fact must be read to be known by heart.
