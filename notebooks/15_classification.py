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
# (ch-classification)=
# # Applications: from text to labels and data
#
# **When is it worth asking a language model for a label or for data, and when does counting words, or a regular
# expression, do as well?**
#
# *About three minutes on two cores, and two more where the encoder of {ref}`ch-bert` has not been tuned yet. You need
# that chapter for the encoder, {ref}`ch-evaluation` for metrics and intervals, {ref}`ch-llm` for SmolLM2. Reviews and
# news are fetched at the first run; they stay in your cache, since they are not ours to pass on.*
#
# The five documents list what language models are for. Four entries of their lists ask for the same thing under three
# names: document 3 has *text classification* and *sentiment analysis*, document 4 sentiment analysis again, and
# document 0 the "*semantic analysis*" of a text that turns it "into structured data". A text goes in; out comes
# something that a program can count, sort and store. None of them says how well this works. This chapter measures it.
#
# We go by one rule. Every task gets a trivial baseline, a classical one and our models, on one test set, in one table
# with intervals. Then we look at what went wrong, and then it is your text's turn. The plan:
#
# 1. sentiment: five methods that get ever larger, and what they cost;
# 2. topics of news, from the headline alone;
# 3. {term}`prompting <prompt>` as a method: labels that are scored, their bias, its cure, and how much the wording
#    matters;
# 4. text to data: a model that writes JSON, and a machine that lets it write nothing else.

# %%
import json
import random
import re

import numpy as np
import torch
from babel import Locale
from babel.dates import format_date
from IPython.display import Markdown
from sklearn.base import clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.pipeline import make_pipeline
from tabulate import tabulate

from minilm import applications, bert, constrain, data, llama, metrics, plots
from minilm.forms import chain, either, grammar, matches, repeat, steps
from minilm.machine import threads
from minilm.prompting import CONTENT_FREE, Prompted, calibrate, few_shot, label_scores

plots.use_style()
smollm2, units = llama.load()
minilm, pieces = bert.load("all-minilm")

# %% [markdown]
# (sec-cl-sentiment)=
# ## Sentiment
#
# *The task.* A sentence from a film review is for the film or against it. The data are those of {ref}`ch-bert`,
# Rotten Tomatoes {cite}`pang2005`, with its split by blocks, in which neighbours stay together. We mark all methods
# on the same 200 test sentences, drawn once, since the slowest of them reads a few sentences a second. That makes the
# intervals about six points wide to either side, and it makes comparisons *paired*: whoever is compared has read the
# same sentences.

# %%
reviews = data.load_labelled("rotten-tomatoes")
verdicts = reviews.card.classes
drawn = random.Random(0).sample(reviews.test, 200)
sentences, truth = (list(column) for column in zip(*drawn, strict=True))
print(f"{len(reviews.train):,} sentences to train, {len(drawn)} to test;", *verdicts)

# %% [markdown]
# *The baselines.* The trivial one says the same of everything. The next one needs no training either: VADER
# {cite}`hutto2014` is a list of words with the strength of feeling that people gave them, and some rules for "not" and
# "very". The classical one learns its own list: words and pairs of words, weighted by rarity, with logistic regression
# on top. The last two are the tools that the package uses for the same task, so that what we measure here is what
# you will get for your own text.

# %%
said = {"majority": [0] * len(truth)}
for method in ("lexicon", "bag-of-words"):
    answers = applications.load("sentiment", method)(sentences)
    said[method] = [verdicts.index(answer) for answer in answers]

# %% [markdown]
# *Our models.* First the encoder that {ref}`ch-bert` has tuned on all training sentences, each read once.
# `bert.classifier` takes it from the cache, and trains it where it is not there yet.

# %% tags=["nbval-ignore-output", "remove-output"]
tuned, _ = bert.classifier("rotten-tomatoes")

# %%
with threads():
    encoder_logits = bert.logits(tuned, pieces, sentences)
said["MiniLM, tuned"] = encoder_logits.argmax(1).tolist()

# %% [markdown]
# Then SmolLM2, which was never trained on this task, and will not be. We write the task into a text that stops where
# the answer would stand:

# %%
ask = lambda text: few_shot(text, names=("Review", "Sentiment"))
print(ask("A film to see twice."))

# %% [markdown]
# What would the model write next? We need not let it write. There are two answers that we can use, and the model
# assigns a probability to each: $P(\text{“ positive”} \mid \text{prompt})$ and $P(\text{“ negative”} \mid
# \text{prompt})$. The label with the higher one is the answer. This is {term}`label scoring`, and compared with
# generating an answer and parsing it, it has two merits: there is always an answer, and it comes with a number that
# says how sure the model is. `label_scores` returns the logarithms. Beside the share right the table has the *macro
# F1*. For each class, take the share of its answers that are right (precision) and the share of its texts that are
# found (recall), and of the two the harmonic mean; then the mean over the classes. Whoever always says the same gets
# 0 for all other classes. A prompt with two lines is enough for the mechanics; {ref}`sec-cl-prompting` comes to the
# wording, and to the word *calibrated* in the table.

# %%
with threads():
    raw = label_scores(smollm2, units, [ask(text) for text in sentences], verdicts)
    unlabelled = [text for text, _ in random.Random(1).sample(reviews.train, 24)]
    usual = label_scores(smollm2, units, [ask(text) for text in unlabelled], verdicts)
fair = calibrate(raw, usual)
said["SmolLM2, asked"] = raw.argmax(1).tolist()
said["SmolLM2, asked, calibrated"] = fair.argmax(1).tolist()


# %% tags=["nbval-ignore-output"] mystnb={"figure": {"name": "tab-cl-sentiment", "caption": "Sentiment of 200 test sentences: share right and macro F1, each with its 95 % interval, and the gain in accuracy over the bag of words, paired."}}
def marked(said, truth, against):
    """A row for each method."""
    right = {name: np.equal(answers, truth) for name, answers in said.items()}
    for name, answers in said.items():
        gain = metrics.paired(right[name], right[against])
        beside = "" if name == against else f"{metrics.Estimate(*gain[:3]):+.2f}"
        yield name, metrics.accuracy(answers, truth), metrics.f1(answers, truth), beside


heads = ["method", "right", "F1", "gain"]
rows = marked(said, truth, "bag-of-words")
Markdown(tabulate(rows, heads, tablefmt="pipe", disable_numparse=True))

# %%
shares = {name: np.equal(answers, truth).mean() for name, answers in said.items()}
ahead = shares["MiniLM, tuned"] > shares["lexicon"] and shares["SmolLM2, asked"] > shares["lexicon"]
print("both models beat the word list:", ahead)

# %% [markdown]
# Read {numref}`tab-cl-sentiment` from the top. The word list is worth something without any training. Words learnt
# from 6,129 labels are worth more. The tuned encoder has seen the same labels and is ahead of them by some points.
# How many, the last column tells, and its interval reaches just below zero: 200 sentences are few.
# {numref}`tab-bert-result` has word list, counted words and encoder on all 1,600, and there the encoder's interval lies
# apart from the others. A table with wide
# intervals is not a table with wrong numbers. It says how much this test can tell apart.
#
# The row that should surprise is that of SmolLM2. Not one label, two lines of prompt, and it is about level with the
# encoder that was tuned. Before we call this understanding, two cautions. Its answers were tuned on instructions, and
# judging a review is a favourite among those. And these sentences have stood on the web for twenty years: a model
# that has read two trillion tokens may have met them, in the company of their stars. That is {term}`contamination`,
# and here nobody can exclude it ({ref}`sec-ev-contamination`). The encoder has read the web as well.
#
# What does each cost? The bag of words is trained in a second and answers thousands of sentences in another. The
# encoder takes some minutes to train. SmolLM2 needs none of that, and then a tenth of a second or two for each
# sentence, for ever.
#
# ### How sure, and rightly so?
#
# The last three rows come with a probability for each answer. Does a sentence to which they give 0.9 turn out as they
# say nine times out of ten? {ref}`ch-evaluation` called this {term}`calibration <calibration>` and measured it by the
# *expected calibration error*: sort the answers into bins by confidence, and average the gap between confidence and
# share right.

# %% mystnb={"figure": {"name": "fig-cl-reliability", "caption": "How sure and how right: the test sentences in four groups of 50 by the confidence of each method, from the least sure to the surest. On the diagonal, confidence is what it says it is."}, "image": {"alt": "Three panels, one for each method, each with a rising line of four points, the share right over the mean confidence of a group of sentences. Most points lie above the dotted diagonal."}}
chances = {
    "MiniLM, tuned": encoder_logits.softmax(1).numpy(),
    "SmolLM2, asked": raw.softmax(1).numpy(),
    "SmolLM2, asked, calibrated": fair.exp().numpy(),
}
panels = plots.panels(3, size=(8.4, 3.0))
for ax, (name, p) in zip(panels, chances.items(), strict=True):
    groups = p.max(1).argsort().reshape(4, -1)
    hits, sure = (p.argmax(1) == np.array(truth))[groups].mean(1), p.max(1)[groups].mean(1)
    plots.lines(sure, {name: hits}, "mean confidence", "share right" * (ax is panels[0]), ax=ax)
    ax.plot([0.5, 1], [0.5, 1], ":", color="grey", marker="")
    ax.set_title(name, fontsize=9)
for name, p in chances.items():
    print(f"{name}: calibration error {metrics.calibration_error(p, truth).value:.1f}")

# %% [markdown]
# In {numref}`fig-cl-reliability` the sure answers are more often right than the unsure ones, so each of these numbers
# can be used to sort the clear cases from the doubtful ones. Whether it can be taken at its word is another question.
# The encoder, trained on the very labels, means about what it says. SmolLM2 is *less* sure than it could be: its
# points lie above the diagonal. The two meanings of *calibration* must be kept apart here. What
# {ref}`sec-cl-prompting` calls by that name moves the border between the labels. It does not make the stated
# confidence honest, and here it has not: the gap to the diagonal stays.
#
# ### Failures
#
# Sentences that the tuned encoder gets wrong with the greatest confidence, cut to a line:


# %% tags=["nbval-ignore-output"]
def gallery(texts, probabilities, truth, names, n=4):
    """The answers that were wrong with the greatest confidence."""
    wrong = np.flatnonzero(probabilities.argmax(1) != np.array(truth))
    for i in wrong[probabilities[wrong].max(1).argsort()[::-1]][:n]:
        guess = names[probabilities[i].argmax()]
        print(f"{guess} ({probabilities[i].max():.2f}), in truth {names[truth[i]]}: {texts[i]:.70}")


gallery(sentences, chances["MiniLM, tuned"], truth, verdicts)

# %% [markdown]
# Read them and ask what *you* would have said. Some of these sentences are mixed, some are ironic, and some tell what
# happens in the film. The label belongs to the whole review and not to the sentence, so that a part of the errors
# cannot be avoided by anybody. No method of {numref}`tab-cl-sentiment` should be expected to reach 1.
#
# ### On your own text
#
# `applications.run` takes a list of texts, or of mappings with a field `label` where the answer is known, and then
# marks itself.

# %%
mine = [
    {"text": "I would watch it again tomorrow, a great film.", "label": "positive"},
    {"text": "Two dull hours that I will not get back.", "label": "negative"},
    {"text": "A warm and funny portrait of a small town.", "label": "positive"},
]
outcome = applications.run("sentiment", mine)
print(outcome["outputs"], outcome["measures"]["accuracy"])

# %% [markdown]
# For a file `mine.jsonl` with one such object a line, the shell does the same, and `smollm2` in place of `bag-of-words`
# asks the language model:
#
# ```
# python -m minilm evaluate bag-of-words --task sentiment --file mine.jsonl
# ```
#
# *The limit.* All of this has learned film reviews, or is asked about them. {ref}`ch-bert` has shown how a split at
# random flatters such a number; another domain, such as reviews of kettles, is a harder test than any split, and only
# labels from there will tell.
#
# (sec-cl-topics)=
# ## Topics
#
# *The task.* News of the BBC stands under one of five topics {cite}`greene2006`. Whoever has the whole article finds it
# easy. So we ask for the topic of the *headline*, about five words:

# %%
news = data.load_labelled("bbc-news")
topics = news.card.classes
headline = lambda text: text.split("\n")[0]
print("to train, validate, test:", len(news.train), len(news.validation), len(news.test))
for text, label in random.Random(3).sample(news.train, 4):
    print(f"{topics[label]:14} {headline(text)}")

# %%
heads_of = {split: [headline(t) for t, _ in getattr(news, split)] for split in ("train", "test")}
label_of = {split: np.array([c for _, c in getattr(news, split)]) for split in ("train", "test")}
news_truth = label_of["test"].tolist()
majority = int(np.bincount(label_of["train"]).argmax())
placed = {"majority": [majority] * len(news_truth)}

# %% [markdown]
# *The classical baseline* is the bag of words once more, trained on the headlines of 1,662 articles, and, to see how
# much the rest of the article would give away, on whole articles.

# %%
counted = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
bag = make_pipeline(counted, LogisticRegression(C=10, max_iter=2000))
bag.fit(heads_of["train"], label_of["train"])
placed["bag of words"] = bag.predict(heads_of["test"]).tolist()
whole = clone(bag).set_params(tfidfvectorizer__ngram_range=(1, 1))
whole.fit([text for text, _ in news.train], label_of["train"])
answers = whole.predict([text for text, _ in news.test])
print(f"with the whole article: {metrics.accuracy(answers, news_truth):.2f}")

# %% [markdown]
# *MiniLM*, in three ways. Its vectors put texts with similar content close to each other ({ref}`ch-bert`). So a topic
# can be found without any label: take the topic whose name, or whose description in a sentence, is nearest to the
# headline. That is *zero-shot* classification {cite}`yin2019`; all that the method knows about the topics is what we
# wrote. With labels, a logistic regression on the same vectors is the *probe* of {ref}`ch-bert`.

# %%
DESCRIPTIONS = [
    "business, companies, the economy, money and markets",
    "entertainment: films, music, television and celebrities",
    "politics: government, parties, elections and ministers",
    "sports: matches, players, teams and championships",
    "technology: computers, software, the internet and phones",
]
with threads():
    vectors = {
        split: bert.embed(minilm, pieces, texts).numpy() for split, texts in heads_of.items()
    }
    described, bare = (
        bert.embed(minilm, pieces, texts).numpy() for texts in (DESCRIPTIONS, topics)
    )
placed["MiniLM, bare labels"] = (vectors["test"] @ bare.T).argmax(1).tolist()
placed["MiniLM, descriptions"] = (vectors["test"] @ described.T).argmax(1).tolist()
probe = LogisticRegression(C=10, max_iter=1000).fit(vectors["train"], label_of["train"])
placed["MiniLM, probe"] = probe.predict(vectors["test"]).tolist()

# %% [markdown]
# *SmolLM2* gets a plain prompt without examples. Forty headlines of the training set, without their labels, tell
# what it says on average.

# %%
ask_topic = lambda text: few_shot(text, names=("Headline", "Topic"))
unlabelled = random.Random(2).sample(heads_of["train"], 40)
with threads():
    judge = Prompted(smollm2, units, topics, ask_topic, unlabelled)
    topic_raw = judge.scores(heads_of["test"])
    empty = label_scores(smollm2, units, [ask_topic(text) for text in CONTENT_FREE], topics)
placed["SmolLM2"] = topic_raw.argmax(1).tolist()
placed["SmolLM2, content-free"] = calibrate(topic_raw, empty).argmax(1).tolist()
placed["SmolLM2, unlabelled"] = calibrate(topic_raw, judge.usual).argmax(1).tolist()

# %% tags=["nbval-ignore-output"] mystnb={"figure": {"name": "tab-cl-topics", "caption": "Topics of 184 test headlines: share right and macro F1 with 95 % intervals, and the paired gain over the bag of words. The last three rows differ in how the scores are calibrated."}}
rows = marked(placed, news_truth, "bag of words")
Markdown(tabulate(rows, heads, tablefmt="pipe", disable_numparse=True))

# %%
gain = metrics.paired(*(np.equal(placed[m], news_truth) for m in ("MiniLM, probe", "SmolLM2")))
print("the probe is ahead of SmolLM2 beyond the interval:", gain.low > 0)

# %% [markdown]
# {numref}`tab-cl-topics` is a cold shower for the language model. With raw scores it is right about half of the time;
# a good calibration adds some points; the bag of words, which has never read anything but 1,662 headlines, is far
# ahead of both. *The right vectors* help more than the larger model. MiniLM's know that a striker and a goalkeeper
# belong together, which a bag of words cannot know of words that it has not met; so a probe on them is the best
# method of all, and descriptions without any label come close to the bag of words. It is worth writing them: bare
# labels do worse.
#
# And look at the row *content-free*. There the scores were divided by what the prompt says to texts without content:
# "N/A", "[MASK]" and nothing at all. It is the best-known recipe ({ref}`sec-cl-prompting`), and here it came out five
# points lower than no calibration. (Five points up or down have no interval of their own in this table.) What a
# prompt says to "N/A" is not what it says to a headline: "N/A" is itself a text, with words that suggest some topics
# rather than others. Headlines without labels are the better neutral texts.
#
# Which topics are taken for which? A *confusion matrix* counts: a row for each true topic, a column for each answer.
# {numref}`fig-cl-confusion` shows the bias as a column: with raw scores "politics" is the answer to headlines of
# every kind, and calibration gives some of them back.

# %% mystnb={"figure": {"name": "fig-cl-confusion", "caption": "Confusion matrices of SmolLM2's answers, before and after calibration on unlabelled headlines. Rows are true topics, columns answers; right answers stand on the diagonal."}, "image": {"alt": "Two five by five tables of counts. Left, raw: the column politics holds 70 of 184 answers, entertainment only 8. Right, calibrated: politics has 45, entertainment 25, and more counts lie on the diagonal."}}
one, two = plots.panels(2, size=(8.6, 3.6))
for ax, name in ((one, "SmolLM2"), (two, "SmolLM2, unlabelled")):
    table = confusion_matrix(news_truth, placed[name])
    plots.heatmap(table, topics, topics, "answer", "topic", fmt=".0f", ax=ax)
    ax.tick_params("x", labelrotation=30)
    ax.set_title(name)
counts = {
    name: np.bincount(placed[name], minlength=5) for name in ("SmolLM2", "SmolLM2, unlabelled")
}
print("the most frequent answer is given to more than a third:",
      *(f"{name}: {c.max() / c.sum() > 1 / 3};" for name, c in counts.items()))  # fmt: skip

# %% tags=["nbval-ignore-output"]
probabilities = probe.predict_proba(vectors["test"])
gallery(heads_of["test"], probabilities, news_truth, topics)

# %% [markdown]
# The failures of the best method are those of headlines. A name that the model has not met under a topic, or a play on
# words, and there is nothing to hold on to. Some articles would fit two topics; the archive has one for each.
#
# ### On your own text
#
# The labels are yours as well: the zero-shot method needs nothing but their names.

# %%
mine = ["The goalkeeper saved two penalties.", "Bake at 200 degrees for half an hour."]
print(applications.run("topics", mine, labels="football,cooking,gardening")["outputs"])

# %% [markdown]
# ```
# python -m minilm evaluate all-minilm --task topics --file mine.txt --labels football,cooking,gardening
# ```
#
# *The limit.* Five topics in British news of two years is a small world. With fifty labels, of which some overlap,
# every row of the table would be lower, and the order of the methods may be another one.
#
# (sec-cl-prompting)=
# ## Prompting as a method
#
# What we did with SmolLM2 has a name and a literature. A {term}`prompt` that only states the task is *zero-shot*;
# with solved examples it is *few-shot* {cite}`brown2020` ({term}`few-shot prompt`). No weight moves. It looks like
# the cheapest method of all, since it needs no training and hardly any labels. This section asks what it costs
# instead.
#
# ### Why raw scores mislead
#
# Suppose the model followed Bayes' rule and knew the task. Its score of label $y$ after text $x$ would be
#
# $$
# P(y \mid x, \text{prompt}) \;\propto\; P(x \mid y)\, P(y \mid \text{prompt}),
# $$ (eq-cl-bayes)
#
# a part that depends on the text, and a part that does not. The second part is a prior, and nobody has chosen it. It
# comes from how often a word such as "politics" follows a colon in the texts that the model has read, from the label of
# the last example in the prompt, and from the order of all of them {cite}`zhao2021,lu2022order`. It has nothing to do
# with our task. The cure is a division. Find out what the model says when there is nothing to go by, and divide by it:
#
# $$
# \hat P(y \mid x) \;\propto\; \frac{P(y \mid x, \text{prompt})}{\bar P(y)}, \qquad
# \bar P(y) = \frac{1}{M} \sum_{m=1}^{M} P(y \mid x_m, \text{prompt}) .
# $$ (eq-cl-calibrate)
#
# For $x_1, \dots, x_M$ there are several proposals. Zhao and colleagues take texts without content, such as "N/A",
# and call it *contextual calibration* {cite}`zhao2021`. Others stay with the task: they take random words from its
# texts {cite}`fei2023`, or the texts themselves without their labels {cite}`zhou2024`. The last assumes that the
# labels are about equally frequent among them. It matters *which* texts. Those of the test set would do well, and
# then the result for one test text depends on the others: the method has looked at the test. We take ours from the
# training set. By hand, for the first two headlines, of which the first is printed:

# %%
log_p = topic_raw[:2].double().log_softmax(1)  # among the five labels
prior = judge.usual.double().softmax(1).mean(0)
by_hand = log_p.exp() / prior
by_hand = by_hand / by_hand.sum(1, keepdim=True)
torch.testing.assert_close(calibrate(topic_raw[:2].double(), judge.usual.double()).exp(), by_hand)
for name, row in {"prior": prior, "raw": log_p[0].exp(), "calibrated": by_hand[0]}.items():
    print(f"{name:10}", " ".join(f"{t} {p:.2f}" for t, p in zip(topics, row.tolist(), strict=True)))

# %% [markdown]
# What does this do to a classifier? It moves its borders and nothing else: the odds of one label against another are
# multiplied by the same number for every text, so the order of two texts by these odds stays what it was. If the
# scores hold no information, calibration cannot put any in. In {numref}`tab-cl-topics` you can read how much of the
# error was border.
#
# ### Wording and order
#
# Now we vary what should not matter. Four wordings of the task without examples, and one set of ten solved headlines
# in six orders; on 48 *validation* headlines, since whoever looks for the best prompt is training, and must not do so
# on the test set.

# %%
checked = random.Random(4).sample(news.validation, 48)
held_out, held_truth = [headline(text) for text, _ in checked], np.array([c for _, c in checked])
few_unlabelled = unlabelled[:20]
shots = [
    (headline(text), topics[c])
    for c in range(5)
    for text, _ in random.Random(c).sample([one for one in news.train if one[1] == c], 2)
]

# %%
prompts = {
    "Headline / Topic": lambda text: few_shot(text, names=("Headline", "Topic")),
    "Text / Label": lambda text: few_shot(text),
    "Article / Section": lambda text: few_shot(text, names=("Article", "Section")),
    "with the labels": lambda text: few_shot(
        text, instruction=f"Topics: {', '.join(topics)}", names=("Headline", "Topic")
    ),
}
for seed in range(6):
    order = random.Random(seed).sample(shots, len(shots))
    prompts[f"ten examples, order {seed + 1}"] = lambda text, order=order: few_shot(
        text, order, names=("Headline", "Topic")
    )

# %%
by_prompt = {}
with threads():
    for name, prompt in prompts.items():
        judge = Prompted(smollm2, units, topics, prompt, few_unlabelled)
        scores = judge.scores(held_out)
        guesses = (scores.argmax(1), calibrate(scores, judge.usual).argmax(1))
        by_prompt[name] = [
            metrics.accuracy(guess.tolist(), held_truth.tolist()) for guess in guesses
        ]

# %% mystnb={"figure": {"name": "fig-cl-wording", "caption": "One model, one task, ten prompts: share of 48 validation headlines whose topic is right, with 95 % intervals, raw and calibrated on 20 unlabelled training headlines."}, "image": {"alt": "Two dot plots with ten rows each, four wordings and six orders of the same ten examples. Left, raw: from about 0.2 to 0.6. Right, calibrated: from about 0.4 to 0.6, closer together."}}
panels = plots.panels(2, size=(7.6, 3.8))
for column, (ax, name) in enumerate(zip(panels, ("raw", "calibrated"), strict=True)):
    found = [both[column] for both in by_prompt.values()]
    intervals = [(e.low, e.high) for e in found]
    plots.dots(list(by_prompt), [e.value for e in found], f"share right, {name}", intervals, ax=ax)
    ax.set_xlim(0, 0.85)
orders = np.array([[e.value for e in both] for name, both in by_prompt.items() if "order" in name])
wordings = np.array(
    [[e.value for e in both] for name, both in by_prompt.items() if "order" not in name]
)
for name, table in (("wordings", wordings), ("orders", orders)):
    for column, kind in enumerate(("raw", "calibrated")):
        print(f"{name}, {kind}: mean {table[:, column].mean():.1f}")

# %% [markdown]
# {numref}`fig-cl-wording` shows two things. Raw scores move a lot with what should not matter. The *same ten
# examples* in another order make another classifier, and mostly a bad one: with examples in the prompt the raw scores
# are *worse* than without. (That a model leans towards the labels that stood last was found with far larger ones
# {cite}`zhao2021`.) And calibration takes a part of that away: its dots lie further to the right, and all ten
# together spread half as far. The six orders alone still differ by twenty points. What remains is no better than a
# prompt without examples. For this model and this task the examples bought nothing.
#
# How much of the scatter is luck? 48 headlines leave an interval of more than ten points on either side, as drawn. An
# exercise computes what the best of ten equal prompts would show.
#
# Three habits follow.
#
# - *Report the prompt with the number*, and the number for several prompts. A single prompt is one draw from a wide
#   distribution, and the best of ten is not a fair sample of it ({ref}`ch-evaluation` has the arithmetic of maxima).
# - *Choose on validation data.* Whoever tries wordings until the score looks right has used labels, and counts them as
#   such.
# - *Count the labels that you have.* The bag of words of {numref}`tab-cl-topics` used 1,662 of them. Prompting is for
#   when there are ten.
#
# (sec-cl-json)=
# ## Text to data
#
# *The task.* "Anna Brandt arrived in Norway on 3 May 2014 with 12 bags." Who, where, when, how many? Document 0 calls
# this *semantic analysis*; the usual names are *information extraction* and *slot filling*. The answer is to be data,
# so we say in advance what data. A *JSON schema* is a JSON object that describes others:

# %%
slots = {
    "name": {"type": "string", "maxLength": 30},
    "place": {"type": "string", "maxLength": 40},
    "date": {"type": "string", "format": "date"},
    "number": {"type": "integer", "minimum": 0},
}
schema = {"type": "object", "properties": slots, "required": list(slots)}
good = '{"name": "Anna Brandt", "place": "Norway", "date": "2014-05-03", "number": 12}'
for text in (good, good.replace("05", "5"), good.replace("12", '"12"'), good[:-1]):
    print(constrain.checked(text, schema) is not None, text[-35:])

# %% [markdown]
# `constrain.checked` reads the text as JSON and asks the library `jsonschema` whether it keeps to the schema. The
# second date has a month of one digit, the third number is a text, and the last text is cut off.
#
# *The data* are made, with names, countries and dates drawn at random. A *template* gives a sentence its form. Four
# templates are for learning: for writing the rules of the baseline, and for the examples in the prompt. Six others are
# held out for the test, as in {ref}`ch-finetuning`. Whoever is tested on the templates that the rules were written for
# measures nothing.

# %%
LEARN = [
    "{name} arrived in {place} on {day} with {number} bags.",
    "On {day}, {number} people heard {name} speak in {place}.",
    "{name} sold {number} boats in {place} on {day}.",
    "In {place}, {name} planted {number} trees on {day}.",
]
HELD_OUT = [
    "It was {day} when {name} left {place} after {number} weeks.",
    "{number} letters from {name} reached {place} on {day}.",
    "{place} lost {number} votes to {name} on {day}.",
    "The prize of {number} pounds went to {name} of {place} on {day}.",
    "Since {day} {name} has run a shop with {number} clerks, in {place}.",
    "{name}, {number}, was born in {place}; they married on {day}.",
]
countries = sorted(x for c, x in Locale("en").territories.items() if len(c) == 2 and x.isalpha())
people = [f"{a} {b}" for a in "Anna Boris Carla David Elena Felix Greta".split()
          for b in "Adler Brandt Conti Dubois Egan Fischer Hansen".split()]  # fmt: skip


# %%
def invent(templates, n, seed):
    """Sentences, each with the data that it tells."""
    rng, made = random.Random(seed), []
    for i in range(n):
        day = np.datetime64("1950-01-01") + rng.randrange(25_000)
        value = {"name": rng.choice(people), "place": rng.choice(countries), "date": str(day)}
        value["number"] = rng.randrange(3, 400)
        said_day = format_date(day.item(), rng.choice(["d MMMM y", "MMMM d, y"]), "en")
        made.append((templates[i % len(templates)].format(day=said_day, **value), value))
    return made


learn, test = invent(LEARN, 40, seed=0), invent(HELD_OUT, 24, seed=1)
for text, value in test[:2]:
    print(text, "->", json.dumps(value))

# %% [markdown]
# *The baselines.* The trivial one answers every sentence with the data of the first training sentence. The classical
# one is a set of *regular expressions*, as a programmer would write them after looking at the four templates for
# learning.

# %%
MONTHS = list(Locale("en").months["format"]["wide"].values())
MONTH = "|".join(MONTHS)
DAY = re.compile(rf"(\d+) ({MONTH}) (\d{{4}})|({MONTH}) (\d+), (\d{{4}})")


def by_rules(text):
    """What regular expressions find, written for the templates in LEARN."""
    d, m, y, m2, d2, y2 = DAY.search(text).groups()
    date = f"{y or y2}-{MONTHS.index(m or m2) + 1:02}-{int(d or d2):02}"
    rest = DAY.sub("", text)
    name = re.search(r"(?!In )[A-Z]\w+ [A-Z]\w+", rest)
    place, number = re.search(r"[Ii]n ([A-Z]\w+)", rest), re.search(r"\d+", rest)
    return {
        "name": name[0] if name else "",
        "place": place[1] if place else "",
        "date": date,
        "number": int(number[0]) if number else 0,
    }


share = np.mean([by_rules(text) == value for text, value in learn])
print(f"on the templates that they were written for: {share:.2f} exact")

# %% [markdown]
# ### A model that may write anything
#
# *Our model* is SmolLM2 with two solved examples, as turns of a conversation. `constrain.extract` writes the requests
# and decodes greedily.

# %%
examples = [learn[0], learn[1]]
sources = [text for text, _ in test]
with threads():
    free = constrain.extract(smollm2, units, sources, schema, examples, free=True)

# %% tags=["nbval-ignore-output"]
for text in free[:4]:
    print(text)

# %% [markdown]
# What it writes looks like JSON. Whether it *is* JSON of our schema is up to the model, in every token. That is an odd
# division of labour, since we know the form exactly, and the model knows it by heart at best.
#
# (sec-cl-constrained)=
# ### A model that may write only JSON
#
# {term}`Constrained decoding` turns this around. At every step of generation some tokens can still lead to a text of
# the form, and all others cannot. Set the probability of the others to zero, scale the rest, and go on as before. In
# the terms of {ref}`ch-generation`, it is one more way to cut the distribution, beside top-k and top-p, with a
# grammar in the place of a number.
#
# Which tokens may come next? For that we need to know, after every prefix, *what is left to come*. There is an old and
# beautiful answer. The *derivative* of a set of texts by a letter is the set of all rests: what remains of those texts
# that begin with the letter, without it {cite}`brzozowski1964`. For example, for the form "yes" or "no", one to three
# times:

# %%
form = repeat(either(b"yes", b"no"), 1, 3)
for first, left in sorted(steps(form), key=lambda step: max(step[0])):
    more = left.rest
    print(
        f"begins with {bytes(first)!r}, then {left.first!r}, then {more.least} to {more.most} more"
    )

# %% [markdown]
# Read it as: the form can begin with `n`, and then `o` is left, and after that the whole thing up to two times; or with
# `y`, and then `es` is left. Rules of this kind, one for each way to build a form, are all there is
# {cite}`antimirov1996`. Literal bytes lose their first byte. A chain $ab$ begins as $a$ does, with $b$ waiting, and, if
# $a$ may be empty, also as $b$ does. A repetition begins as its content does, and then one repetition fewer is left.
# What is left when everything is read may be empty, or it may not: then the text is not finished.
#
# `grammar` writes the form of a schema. What about a date? The form knows the calendar:

# %%
date_form = grammar({"type": "string", "format": "date"})
for text in ('"2024-02-29"', '"2023-02-29"', '"2023-13-01"'):
    print(text, matches(date_form, text.encode()))
pairs_of = chain(b"[", grammar({"type": "integer", "minimum": 0}), b"]")
print(matches(pairs_of, b"[12]"), matches(pairs_of, b"[012]"))

# %% [markdown]
# A token is several bytes. It may come next if, byte by byte, it leads to something that is left, and to nothing that
# is hopeless {cite}`willard2023`. `Constraint` walks all 49,152 tokens of SmolLM2 through the form at once, and
# remembers the result for each state, so that later visits are free. How many tokens may follow on various beginnings?

# %%
may = constrain.Constraint(grammar(schema), units, stop={units.specials["<|im_end|>"]})
for begun in ("", '{"name": "', '{"name": "Anna", "place": "Norway", "date": "20', good):
    allowed = may(units.encode(begun))
    some_of = [units.tokens[i] for i in allowed.nonzero().flatten()[:4]]
    print(f"{int(allowed.sum()):6,} tokens after ...{begun[-14:]!r}, such as {some_of}")

# %% [markdown]
# At the beginning there are two, since JSON objects begin with a brace. Within a name nearly everything goes. After the
# last brace there is only the token that ends the turn: the model *has* to stop. The guarantee does not depend on the
# weights. The tests of this package let models of pure noise write, and what they write is valid.

# %%
with threads():
    forced = constrain.extract(smollm2, units, sources, schema, examples)
print("all valid:", all(constrain.checked(text, schema) is not None for text in forced))

# %% [markdown]
# *The measures.* Three questions: is the text valid, is the object exactly right, and how many slots are right? For
# the last one *slot F1* counts slots that were filled, slots that should have been, and hits. A text that is not
# valid fills none. With as many slots filled as wanted, it is the share of right slots.


# %%
def slot_f1(answers, references):
    """F1 over all slots, resampled by sentence."""
    hits = [
        sum((a or {}).get(k) == v for k, v in r.items())
        for a, r in zip(answers, references, strict=True)
    ]
    filled, wanted = [len(a or {}) for a in answers], [len(r) for r in references]
    f1 = lambda h, f, w, axis=-1: 2 * h.sum(axis) / (f.sum(axis) + w.sum(axis))
    return metrics.estimate(f1, hits, filled, wanted)


# %% tags=["nbval-ignore-output"] mystnb={"figure": {"name": "tab-cl-json", "caption": "Text to data: 24 sentences from six templates that no rule and no example has seen. Shares with 95 % intervals."}}
values = [value for _, value in test]
extracted = {
    "the first training answer": [learn[0][1]] * len(test),
    "regular expressions": [by_rules(text) for text in sources],
    "SmolLM2, free": [constrain.checked(text, schema) for text in free],
    "SmolLM2, constrained": [constrain.checked(text, schema) for text in forced],
}
rows = []
for name, answers in extracted.items():
    valid = metrics.share([a is not None for a in answers])
    exact = metrics.accuracy(answers, values)
    rows.append((name, valid, exact, slot_f1(answers, values)))
Markdown(
    tabulate(rows, ["method", "valid", "exact", "slot F1"], tablefmt="pipe", disable_numparse=True)
)

# %% mystnb={"figure": {"name": "tab-cl-slots", "caption": "The same by slot: share of sentences in which a slot is right."}} tags=["nbval-ignore-output"]
by_slot = [
    (
        name,
        *(
            np.mean([(a or {}).get(k) == v[k] for a, v in zip(answers, values, strict=True)])
            for k in slots
        ),
    )
    for name, answers in extracted.items()
]
Markdown(tabulate(by_slot, ["method", *slots], tablefmt="pipe", floatfmt=".2f"))

# %% [markdown]
# The constraint does what it promised ({numref}`tab-cl-json`). About half of what the free model wrote was no data of
# this form; all of what the bound model wrote is. More slots are right as well: what was lost with a missing zero in a
# date, or with a date in words, is counted now. The share of sentences that are *exactly* right moved little, and the
# regular expressions, with an hour of somebody's work behind them, are ahead in it and far ahead in slots.
#
# {numref}`tab-cl-slots` shows two characters. The rules are perfect for names, dates and numbers, where the form
# gives a slot away, and they lose two thirds of the places, since they only know places that follow the word "in".
# They fail because the held-out templates were not foreseen, and they fail *always in the same way*. SmolLM2 foresees
# nothing and fails in every slot: in a fifth of the numbers, nearly half of the dates, and more than half of the
# places, of which it still gets more than the rules do. It has filled places with a country that is not in the
# sentence, and stood in an example.
#
# One kind of error the constraint *makes*. Where the free model writes `"20 January 1962"` in the place of a date,
# the bound one begins with the same `20`, which is allowed, as a date may begin so. Then no blank may follow, only a
# digit, and the model goes on from `20` as best it can: to a year such as 2013 that nobody mentioned. The constraint
# is applied a token at a time, without looking ahead, and a model that is led off its path does not come back.
# Sampling from the model's own distribution *given that* the text is valid would need to weigh all continuations;
# what is done here, and in most tools, is cheaper and not the same.
#
# ### Failures

# %% tags=["nbval-ignore-output"]
wrong = [
    (s, t)
    for s, t, v in zip(sources, forced, values, strict=True)
    if constrain.checked(t, schema) != v
]
for source, text in wrong[:3]:
    print(source, "\n   ", text)

# %% [markdown]
# All of it is valid, and it would pass every check of a program behind it. That is the danger of a guarantee about
# form: it takes away the one kind of error that announces itself. Dates, for instance, are always dates now, and the
# wrong ones look like the right ones. Whoever puts such a step into a pipeline measures values on a sample, by hand,
# as the table does.
#
# ### On your own text

# %% tags=["nbval-ignore-output"]
parcel = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "boxes": {"type": "integer"}},
}
mine = ["Please send 14 boxes to Lyon.", "We need three boxes in Turin."]
print(applications.run("extract", mine, schema=parcel)["outputs"])

# %% [markdown]
# ```
# python -m minilm evaluate smollm2 --task extract --file mine.txt --schema parcel.json
# ```
#
# (Fourteen boxes have become one in the run that stored this page, and the schema has no objection.)
#
# *The limit.* Our sentences tell one fact in one sentence, and everything that the schema asks for is there. In letters
# and reports things are missing, occur twice, or are spread over pages. A schema that allows `null` gives a model a way
# to say that it found nothing; whether it takes it is one more thing to measure.
#
# ## The answer
#
# *When is it worth asking a language model for a label or for data?* On film reviews SmolLM2, without a label, was
# about level with an encoder that had read thousands of them ({numref}`tab-cl-sentiment`). On headlines it was far
# behind a bag of words that had read about three hundred for each topic ({numref}`tab-cl-topics`). For data from
# sentences it was behind regular expressions, even when held to the form ({numref}`tab-cl-json`). A model of 135
# million parameters is a small one, and larger ones do better at all of this {cite}`brown2020`; the comparison has to
# be made with the model that you have. So: with hardly any labels, ask. With a few hundred, put a linear layer on
# good vectors. With a known form, write the rules, and let a model have what the rules leave over. And in any case,
# measure first.
#
# ## What we learnt
#
# - Every number stands beside a trivial and a classical baseline, on one test set, with an interval.
# - Label scoring: compare the probabilities of the labels; nothing need be generated or parsed.
# - Raw scores hold a prior that nobody has chosen. Divide by what the model says to neutral texts, and take these from
#   the training set.
# - Calibration moves borders. It cannot add what the scores do not know.
# - Wording and order change the score of a prompt. Report several prompts, and choose on validation data.
# - A form is what is left to come. Tokens that lead nowhere get no probability; then every text is valid.
# - Valid is not right. Constraints remove the errors that are easy to see.
#
# ## Exercises
#
# ```{exercise} Calibrate by hand
# :label: ex-cl-calibrate
#
# Write `calibrated(p, neutral)` for an array `p` (N, C) of probabilities of labels and an array `neutral` (M, C) of
# those that neutral texts get: {eq}`eq-cl-calibrate`, rows that sum to one.
# ```


# %% tags=["exercise"]
def calibrated(p, neutral):
    """Probabilities divided by the mean of the neutral ones, and scaled to sum to one."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def calibrated(p, neutral):
    """Probabilities divided by the mean of the neutral ones, and scaled to sum to one."""
    ratio = p / neutral.mean(0)
    return ratio / ratio.sum(1, keepdims=True)


# %% tags=["check"]
rng = np.random.default_rng(0)
for n, m, c in ((3, 2, 4), (1, 5, 2)):
    p, neutral = rng.dirichlet(np.ones(c), n), rng.dirichlet(np.ones(c), m)
    wanted = calibrate(torch.tensor(p).log(), torch.tensor(neutral).log()).exp().numpy()
    before, found = p.copy(), calibrated(p, neutral)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, err_msg="divide by the mean")
    assert np.array_equal(p, before), "the argument must not change"
np.testing.assert_allclose(calibrated(p[:1], p[:1]), 1 / 2, rtol=1e-5)

# %% [markdown]
# ```{exercise} What may come next
# :label: ex-cl-next
#
# Write `next_letters(words, begun)`: for a finite list of allowed words, the set of letters that may follow on `begun`,
# with the empty text `""` in it if `begun` is itself a word. What is the answer to a beginning that is hopeless?
# ```


# %% tags=["exercise"]
def next_letters(words, begun):
    """The letters that lead on to one of the words, and "" where one is complete."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def next_letters(words, begun):
    """The letters that lead on to one of the words, and "" where one is complete."""
    return {word[len(begun) : len(begun) + 1] for word in words if word.startswith(begun)}


# %% tags=["check"]
words = ["no", "not", "nothing", "yes"]
assert next_letters(words, "no") == {"", "t"} and next_letters(words, "not") == {"", "h"}
assert next_letters(["yes", "eye"], "e") == {"y"}, "begun has to stand at the beginning"
assert next_letters(["nono"], "no") == {"n"}, "only the beginning is taken off, and once"
assert next_letters(words, "") == {"n", "y"} and next_letters(words, "x") == set()
left = either(*(word.encode() for word in words))
for begun in ("", "n"):
    found = {chr(byte) for some, _ in steps(left) for byte in some}
    assert next_letters(words, begun) == found, "as the derivatives say"
    left = either(*(rest for some, rest in steps(left) if ord("n") in some))

# %% [markdown]
# ```{exercise} The best of several prompts
# :label: ex-cl-best
#
# Ten prompts have the same true accuracy `p`. Write `best_of(p, prompts, n, draws, rng)`: the mean, over `draws`
# repetitions, of the best share right that `prompts` prompts reach on `n` texts each (`rng.binomial`). How much of the
# spread in {numref}`fig-cl-wording` could be luck?
# ```


# %% tags=["exercise"]
def best_of(p, prompts, n, draws, rng):
    """The mean of the best of several shares, all drawn with the same chance p."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def best_of(p, prompts, n, draws, rng):
    """The mean of the best of several shares, all drawn with the same chance p."""
    return rng.binomial(n, p, (draws, prompts)).max(1).mean() / n


# %% tags=["check"]
rng = np.random.default_rng(1)
assert abs(best_of(0.5, 1, 60, 4000, rng) - 0.5) < 0.01, "one prompt gains nothing by choice"
assert abs(best_of(0.9, 1, 50, 4000, rng) - 0.9) < 0.01, "p is the chance to be right"
assert best_of(0.5, 10, 60, 2000, rng) > best_of(0.5, 3, 60, 2000, rng) > 0.53
assert abs(best_of(0.5, 2, 1, 20_000, rng) - 0.75) < 0.02, "two coins: heads in three of four"
seeded = [best_of(0.5, 3, 60, 500, np.random.default_rng(s)) for s in (2, 2, 3)]
assert seeded[0] == seeded[1] != seeded[2], "draw from rng"
print(
    f"ten equal prompts with p = 0.5, 48 texts: the best shows {best_of(0.5, 10, 48, 9000, rng):.2f}"
)

# %% [markdown]
# ```{exercise} Slots
# :label: ex-cl-slots
#
# Write `precision_recall(answers, references)` for lists of dicts (an answer may be `None`), the pair of the share of
# filled slots that are right, and the share of wanted slots that were found. A slot that was not wanted is filled and
# wrong.
# ```


# %% tags=["exercise"]
def precision_recall(answers, references):
    """Precision and recall over all slots."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def precision_recall(answers, references):
    """Precision and recall over all slots."""
    answers = [answer or {} for answer in answers]
    pairs = zip(answers, references, strict=True)
    hits = sum(key in r and r[key] == value for a, r in pairs for key, value in a.items())
    return hits / sum(map(len, answers)), hits / sum(map(len, references))


# %% tags=["check"]
assert precision_recall([{"a": 1, "b": 2}, None], [{"a": 1}, {"a": 1, "b": 2}]) == (1 / 2, 1 / 3)
assert precision_recall([{"a": 1}], [{"a": 1, "b": None, "c": 3}]) == (1.0, 1 / 3)
assert precision_recall([{"a": 1, "b": None}], [{"a": 1}]) == (0.5, 1.0), "not wanted is wrong"
assert precision_recall([{"b": 1, "a": 2}], [{"a": 1, "b": 2}]) == (0, 0), "right value, wrong slot"
both = precision_recall(extracted["SmolLM2, constrained"], values)
harmonic = 2 * both[0] * both[1] / sum(both)
f1 = slot_f1(extracted["SmolLM2, constrained"], values).value
assert abs(harmonic - f1) < 1e-9, "its harmonic mean is the slot F1"

# %% [markdown]
# ## Further reading
#
# - {cite}`brown2020`, which made few-shot prompting a method; {cite}`zhao2021` on why it is unstable, with the remedy
#   of this chapter; {cite}`lu2022order` on the order of examples.
# - {cite}`fei2023` and {cite}`zhou2024` on calibration with words and texts of the task.
# - {cite}`pang2005` and {cite}`hutto2014`: where the data and the word list of the first section come from.
# - {cite}`brzozowski1964` on derivatives, in fourteen pages; {cite}`willard2023` on how they meet tokens.
