# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
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
# (ch-writing)=
# # Applications: writing
#
# **What may one ask a small language model to write, and how would one notice that it has failed?**
#
# *About three minutes on two cores, and three more where the GPT of {ref}`ch-gpt` and the T5 of {ref}`ch-t5` have not
# been trained yet. You need {ref}`ch-generation` for decoding, {ref}`ch-llm` for SmolLM2 and its chat template, {ref}`ch-finetuning` for
# LoRA, {ref}`ch-evaluation` for intervals. The news of the BBC are fetched at the first run, for study only.*
#
# The applications of {ref}`ch-classification` and {ref}`ch-search` end in a class, a rank or a passage, and somebody
# knows the right one. This chapter is about those that end in a text: stories and letters, summaries, translations,
# dialogue. They are what the five essays promise most warmly ("fluent and accurate translations", "creative stories and
# poems") without a number ({ref}`err-quality-claims`). The difficulty is plain. There are many good texts, and no list
# of them. So measuring comes before writing:
#
# 1. what a program can count in any text: repetition, copying, what was asked for and is there;
# 2. stories and letters: control by asking, and control by decoding;
# 3. a style, by choosing the best of several drafts, and what that costs;
# 4. headlines: SmolLM2 asked, shown examples, and tuned, against seven words copied;
# 5. translation: phrases with exact references, then the strings of a real program;
# 6. dialogue: what it costs, what is remembered, what is obeyed, and what is made up;
# 7. all applications of the five documents in one table, and where this book measures each.
#
# A warning beforehand. In several tables of this chapter a baseline of a few lines wins. That is the result, and we
# leave it standing.

# %%
import json
import math
import random
import re
import time
from collections import Counter

import numpy as np
import torch
from IPython.display import Markdown
from nltk.translate import AlignedSent, IBMModel1
from sacrebleu.metrics import BLEU
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from tabulate import tabulate

from minilm import (
    applications,
    chat,
    data,
    llama,
    metrics,
    multitask,
    ngram,
    plots,
    presets,
    tasks,
    writing,
)
from minilm.counts import count
from minilm.generate import Reader, generate_batch
from minilm.machine import threads
from minilm.metrics import share
from minilm.tokenizer import Words
from minilm.writing import copied, grams, invented, prices, repeated

plots.use_style()
model, tokenizer = llama.load("smollm2")
END = {tokenizer.specials[chat.END]}

# %% [markdown]
# One function does all the asking. It takes conversations, or single requests, and lets SmolLM2 answer many at once;
# `begin` puts words into its mouth, which will be useful.


# %%
def said(requests, length, begin=None, batch=128, **how):
    """The answer to each request: greedy, unless a temperature is given."""
    talks = [[{"role": "user", "content": r}] if isinstance(r, str) else r for r in requests]
    prompts = [chat.encode(tokenizer, talk) for talk in talks]
    if begin:
        prompts = [p + tokenizer.encode(b) for p, b in zip(prompts, begin, strict=True)]
    how, texts = {"temperature": 0.0, "stop": END} | how, []
    with threads():
        for start in range(0, len(prompts), batch):
            seed = {"seed": how.get("seed", 0) + start}
            texts += generate_batch(model, prompts[start : start + batch], length, **how | seed)
    begin = begin or [""] * len(texts)
    return [b + tokenizer.decode(ids) for b, ids in zip(begin, texts, strict=True)]


# %% [markdown]
# And one does the reporting: a mean with the bootstrap's interval. A share has Wilson's, which is sensible even where
# all or none are right ({ref}`ch-t5`).


# %%
def mean(values):
    return metrics.estimate(np.mean, values)


# %% [markdown]
# (sec-wr-counts)=
# ## What can be counted in a text
#
# Three things can be counted without knowing what a good text is, and each of them catches a way to fail that reading a
# few samples does not.
#
# - **Repetition.** The share of $n$-grams that occurred earlier in the same text,
#
#   $$
#   r_n = 1 - \frac{\text{number of different } n\text{-grams}}{\text{number of } n\text{-grams}} .
#   $$ (eq-wr-repeated)
#
#   $1 - r_n$ is known as {term}`distinct-n`, though its authors divide by the number of words {cite}`li2016diversity`.
#   We count over words and take $n = 3$ within a text. The same number taken over all texts of a system *together* says
#   whether it writes the same thing to everybody.
#
# - **Copying.** The share of $n$-grams that stand, word for word, in the text that the model was trained on. With $n =
#   5$ it is small for anything new: a sentence of one's own rarely shares five words in a row with a given book.
# - **Obedience.** What was asked for and can be checked: these words, this length, this form.
#
# By hand, on a sentence that repeats itself and on one that somebody else wrote:

# %%
sentence = "to be or not to be that is the question".split()
print(f"r_2 = {repeated(sentence, 2):.3f}: one of nine pairs, 'to be', comes a second time")
known = set(grams("whether tis nobler in the mind to suffer that is the question".split(), 3))
print(
    f"copied, n = 3: {copied(sentence, known, 3):.3f}: 'that is the', 'is the question', of eight"
)

# %% [markdown]
# None of these numbers is a mark for quality. They are like the instruments of a doctor: a good reading does not mean
# health, and a bad one means something. What they cannot see is in the next section's first row.
#
# (sec-wr-stories)=
# ## Stories with given words
#
# **Task.** A story of about 60 words in which three given words occur. **Data.** Eight triples, drawn from a list
# that was fixed beforehand. **Measures.** All three words are there; the length is between 40 and 80 words;
# repetition within a story ($r_3$) and over all eight together.

# %%
NOUNS = """anchor baker candle doctor engine feather garden hammer island jacket kitten ladder
market needle orchard piano queen river saddle teacher umbrella violin window winter""".split()
draw = random.Random(0)
triples = [draw.sample(NOUNS, 3) for _ in range(8)]
REQUEST = "Write a short story of about 60 words. Use the words {}, {} and {}."
asked = [REQUEST.format(*words) for words in triples]
print(asked[0])


# %%
def words(text):
    return re.findall(r"\w[\w'’]*", text.lower())


def uses(text, wanted):
    return sum(any(word in (w, w + "s") for word in words(text)) for w in wanted)


def story_marks(texts):
    """Of each story: all words used, length kept, repetition."""
    used = [uses(text, wanted) == 3 for text, wanted in zip(texts, triples, strict=True)]
    kept = [40 <= len(words(text)) <= 80 for text in texts]
    return used, kept, [repeated(words(text), 3) for text in texts]


# %% [markdown]
# **Trivial baseline.** A template of sixty words with three gaps, which obeys by construction. **Classical
# baseline.** What {ref}`ch-ngram` would write: seventy tokens, words and pieces of words, drawn from a Kneser–Ney
# trigram of the Wikipedia articles, which nobody can ask for anything.

# %%
TEMPLATE = """Once upon a time there was a {} that nobody wanted. Every morning it lay beside a {}
and waited. One day a stranger came, looked at it for a long while, and laughed. "You are worth
more than any {} I know," said the stranger, and carried it home. There it stayed for many happy
years, and nobody laughed again."""
wiki = data.load("wikipedia")
units = Words.train(wiki.text("train"), 8000)
trigram = ngram.ModifiedKneserNey(
    count(torch.tensor(units.encode(wiki.text("train"))), 3, units.vocab_size)
)
start = units.encode("\n\n")
stories = {
    "template": [TEMPLATE.format(*wanted) for wanted in triples],
    "trigram": [units.decode(t) for t in generate_batch(trigram, [start] * 8, 70)],
}

# %% [markdown]
# **Our model.** SmolLM2, asked: greedily; at two temperatures; and the best of three drafts. In the last the control is
# in the decoding, not in the request. We draw three stories at temperature 0.7, count, and keep the one that uses most
# of the words; of these, the one whose length is nearest to 60. Whatever can be counted can be chosen by.

# %%
stories["asked, greedy"] = said(asked, 85)
drafts = np.array(said(asked * 3, 85, temperature=0.7), dtype=object).reshape(3, 8)
stories["asked, T = 0.7"] = list(drafts[0])
stories["asked, T = 1.2"] = said(asked, 60, temperature=1.2, seed=1)
better = lambda wanted: lambda text: (uses(text, wanted), -abs(len(words(text)) - 60))
stories["best of three, T = 0.7"] = [
    max(three, key=better(wanted)) for wanted, *three in zip(triples, *drafts, strict=True)
]


# %% mystnb={"figure": {"name": "tab-wr-stories", "caption": "Eight stories a row, with 95 % intervals. Words used: all three stand in the story. Length kept: 40 to 80 words. Repeated: word trigrams that occurred before, in the same story and in all stories of the row."}} tags=["nbval-ignore-output"]
table = []
for name, texts in stories.items():
    used, kept, again = story_marks(texts)
    together = repeated([word for text in texts for word in words(text)], 3)
    table.append((name, share(used), share(kept), mean(again), f"{together:.2f}"))
heads = ["stories", "words used", "length kept", "repeated within", "repeated over all"]
Markdown(tabulate(table, heads, tablefmt="pipe", disable_numparse=True))

# %%
marks = {name: np.array(story_marks(texts)[0], dtype=float) for name, texts in stories.items()}
assert marks["template"].all() and marks["trigram"].mean() < 0.1
assert marks["best of three, T = 0.7"].mean() >= marks["asked, T = 0.7"].mean()
print("the template always obeys, the trigram never; three drafts are no worse than one")

# %% [markdown]
# Start with the first row of {numref}`tab-wr-stories`. The template is perfect in every column but the last, and
# worthless: it writes the same story to everybody. No measure of single texts can see that; one over all texts does. So
# the last column belongs into every table of generated text, and it is the one most often left out.
#
# Asked, SmolLM2 uses all three words in about half of its stories or fewer, and keeps the length in three of eight.
# Warmer sampling makes the stories less alike and uses fewer of the words, and at 1.2 the words fall apart. Its
# length says little: these texts were cut at 60 tokens, the others at 85, so most of them end near the limits
# whatever they say. The best of three drafts uses the words more often than a single draft at the same temperature.
# It costs three times as much to write and nothing to think of, and needs no change in the model. The trigram uses
# the words in no story, as it should: nobody asked it. Its length is right now and then, where it was stopped.

# %% tags=["nbval-ignore-output"]
for name in ("trigram", "asked, greedy", "asked, T = 1.2"):
    print(f"--- {name}: {', '.join(triples[0])}\n{stories[name][0]}\n")

# %% [markdown]
# (sec-wr-letters)=
# ## Letters
#
# **Task.** A short letter to a named person about a named matter, in 100 tokens at most. **Data.** Eight of them.
# **Measures.** A letter has a form, and a form can be checked: it opens with *Dear* and the right name, the matter is
# mentioned, it closes with a formula, and no gap such as *[Your Name]* is left for somebody to fill in.

# %%
PEOPLE = "Ms Brown, Mr Chen, Dr Ortiz, Mrs Novak, Mr Okafor, Ms Dubois, Professor Lind, Mr Rossi"
MATTERS = "the broken heating, a lost parcel, the school concert, a late invoice, the garden fence"
MATTERS += ", a cancelled train, the new library, a wrong address"
people, matters = PEOPLE.split(", "), MATTERS.split(", ")
letters = [(people[i % 8], matters[i * 3 % 8]) for i in range(8)]
REQUEST = "Write a short letter to {} about {}. Sign it as Sam Miller."
asked = [REQUEST.format(*letter) for letter in letters]
CLOSING = re.compile(
    r"^(?:yours|sincerely|best|kind|warm|regards|respectfully)\b.{0,30}$", re.I | re.M
)


def letter_marks(text, who, matter):
    """Salutation, matter, closing, no gap."""
    greeted = text.lstrip().replace(".", "").startswith(f"Dear {who}")
    return greeted, matter.split()[-1] in text.lower(), bool(CLOSING.search(text)), "[" not in text


# %% [markdown]
# **Trivial baseline.** The mail merge of every office: one text with gaps. **Control by asking:** the request above.
# **Control by decoding:** we begin the answer ourselves, *Dear Ms Brown, I am writing*, let the model go on, and sign
# for it. (We end with a whole word, since what is encoded apart should not be cut where one token would reach over;
# {ref}`ch-text`.) An instruction can be ignored; what is already written cannot.

# %%
openings = [f"Dear {who},\n\nI am writing" for who, _ in letters]
both = said(asked * 2, 100, begin=[""] * 8 + openings)  # in one batch: it takes as long as one half
merge = "Dear {},\n\nI write about {}.\n\nYours,\nSam Miller"
written = {"template": [merge.format(*letter) for letter in letters], "asked": both[:8]}
cut = lambda text: CLOSING.split(text)[0].strip().rsplit(".", 1)[0]  # whole sentences
written["begun and signed"] = [cut(text) + ".\n\nYours,\nSam Miller" for text in both[8:]]

# %% mystnb={"figure": {"name": "tab-wr-letters", "caption": "Eight letters a row: shares with 95 % intervals. All four: a letter that could go out, as far as its form goes."}} tags=["nbval-ignore-output"]
table = []
for name, texts in written.items():
    rows = [letter_marks(text, *letter) for text, letter in zip(texts, letters, strict=True)]
    rows = np.array(rows)
    table.append((name, *map(share, rows.T), share(rows.all(1))))
heads = ["letters", "salutation", "matter", "closing", "no gap left", "all four"]
Markdown(tabulate(table, heads, tablefmt="pipe", disable_numparse=True))

# %% [markdown]
# {numref}`tab-wr-letters` shows what asking is worth when the form counts. The matter is always there, and the
# salutation in seven of eight. But no letter comes to its closing in time (the one printed below is cut in the middle
# of the word *Sincerely*): asked for a *short* one, the model goes on, and when it is given more room it often adds a
# comment on the letter below the signature. Begun for it and signed for it, the letter has its form by construction.
# That is the cheap end of {term}`constrained decoding`, which {ref}`sec-cl-constrained` carries on to whole forms.
#
# Now read the second letter. It has salutation, matter and closing, and it tells of a school of which nobody spoke. The
# table cannot know: what it counts was forced to be right, and counting it proves nothing about the rest. The
# mail merge in the first row is better for every office in which letters of this kind are written, and has been since
# before there were language models.

# %% tags=["nbval-ignore-output"]
print(written["asked"][0], "\n\n------\n")
print(written["begun and signed"][0])

# %% [markdown]
# (sec-wr-style)=
# ## A style, and what the best of n costs
#
# Can SmolLM2 write like Shakespeare? Two kinds of control compete once more. One asks. The other would be to mix our
# GPT of {ref}`ch-gpt` into it, which has read nothing but Shakespeare: multiply the probabilities of both for the
# next token. That is impossible here, and the reason is worth a sentence. The product needs from both models the
# probability of *the same* next token, and the two have different ones: 1,024 pieces against 49,152. What both can do
# is score a finished text. Bits per byte was made for comparing across tokenizers ({ref}`ch-concepts`), so the GPT
# can be a *judge of drafts*: draw $n$ of them, keep the one it finds most like Shakespeare, the {term}`best of n`.
#
# As the score of a text $x$ we take how many bits a byte it is cheaper for the GPT than for a model of ordinary prose,
# the trigram of Wikipedia above:
#
# $$
# s(x) = \operatorname{bpb}_{\text{Wikipedia}}(x) - \operatorname{bpb}_{\text{Shakespeare}}(x)
# = \frac{1}{\text{bytes}} \log_2 \frac{P_{\text{Shakespeare}}(x)}{P_{\text{Wikipedia}}(x)} .
# $$ (eq-wr-style)
#
# That is a likelihood ratio, the classifier that two {term}`generative models <generative model>` make by Bayes' rule
# ({ref}`err-generative`). Dividing by the length keeps long texts from having the largest scores, and taking a
# difference keeps dull texts, which are cheap for everybody, from winning.
#
# ### How far can choosing go?
#
# ```{prf:theorem} The price of the best of n
# :label: thm-wr-best
# Draw $n$ texts independently from $P$ and keep the one with the highest score, where the score has a continuous
# distribution, so that two draws are never equal. Let $P_n$ be the distribution of what is kept. Then
#
# $$
# D_{\mathrm{KL}}(P_n \,\|\, P) = \log n - \frac{n-1}{n} .
# $$ (eq-wr-best)
# ```
#
# ```{prf:proof}
# Let $u = F(s(x))$ be the share of texts with a lower score than $x$; drawn from $P$, it is uniform on $[0, 1]$. The
# kept text has the largest of $n$ uniform numbers, whose density is $n u^{n-1}$. So $P_n(x) / P(x) = n u^{n-1}$, and
#
# $$
# D_{\mathrm{KL}}(P_n \,\|\, P) = \int_0^1 n u^{n-1} \log (n u^{n-1}) \, \mathrm{d}u
# = \log n + (n-1) \int_0^1 n u^{n-1} \log u \, \mathrm{d}u = \log n - \frac{n-1}{n},
# $$
#
# since $\int_0^1 n u^{n-1} \log u \, \mathrm{d}u = -\frac1n$ by parts.
# ```
#
# So eight drafts move the text by at most $\log 8 - \frac78 = 1.2$ nats, *whatever the score*. A few nats for a whole
# text is little: it chooses among what the model would have written anyway and makes nothing new likely. In exchange
# it is safe: compare the several nats by which the hacked policy of {ref}`sec-ft-hacking` had left its reference.
# Real texts are not quite like that: the same text may be drawn twice, and two texts may have one score (as when we
# counted words above). Then the price is lower, and {eq}`eq-wr-best` is an upper bound. A simulation agrees:

# %%
rng = np.random.default_rng(0)
for n in (2, 8, 64):
    u = rng.random((200_000, n)).max(1)  # the rank of what is kept
    simulated = np.log(n * u ** (n - 1)).mean()
    assert abs(simulated - (np.log(n) - (n - 1) / n)) < 0.01
    print(f"best of {n:2}: {np.log(n) - (n - 1) / n:.2f} nats")

# %% [markdown]
# ### Two judges
#
# The judge that chooses cannot be the one that marks, or we would measure how well the choice was made by its own light
# ({ref}`sec-ft-hacking`, once more). So there is a second: logistic regression on the words of passages, Shakespeare
# against Wikipedia, in lower case and without names of speakers, which would give the plays away. It sees no order of
# words, and has nothing in common with the GPT but the books.

# %% tags=["nbval-ignore-output"]
gpt, bpe, _ = presets.trained("gpt")

# %%
plays = data.load("shakespeare")


def passages(text, n, size=40):
    """n runs of words from a text, evenly spread, without words in capitals."""
    found = [w for w in text.split() if not w.isupper() or len(w) == 1]
    return [" ".join(found[i : i + size]) for i in np.linspace(0, len(found) - size, n).astype(int)]


sides = [passages(corpus.text("train"), 4000) for corpus in (wiki, plays)]
bag = TfidfVectorizer(token_pattern=r"[a-z][a-z']*", sublinear_tf=True)
judge = make_pipeline(bag, LogisticRegression(C=10, max_iter=1000))
judge.fit(sides[0] + sides[1], [0] * 4000 + [1] * 4000)
held = [passages(corpus.text("test"), 200) for corpus in (wiki, plays)]
print(f"held-out passages told apart: {judge.score(held[0] + held[1], [0] * 200 + [1] * 200):.2f}")


# %%
def style(texts):
    """Equation of the score: bits a byte cheaper as Shakespeare than as Wikipedia."""
    flat = [" ".join(text.split()) or "." for text in texts]
    with threads():
        return np.array(prices(trigram, units, flat)) - np.array(prices(gpt, bpe, flat))


for name, some in zip(("Wikipedia", "Shakespeare"), held, strict=True):
    print(f"{name}: mean score {style(some[:40]).mean():+.1f}")

# %% [markdown]
# Six scenes, six drafts of each, asked plainly and asked for the style; 30 tokens at temperature 0.9.

# %%
OPENINGS = """A king speaks to the sea. | Two friends part at night. | A daughter defies her father.
| A soldier fears the morning. | A ghost walks on the wall. | A thief swears he is honest."""
scenes = [scene.strip() for scene in OPENINGS.split("|")]
REQUESTS = {
    "asked plainly": "Write two lines for this scene: {}",
    "asked for the style": "Write two lines in the style of William Shakespeare for this scene: {}",
}
drafts = {
    name: said([r.format(s) for s in scenes for _ in range(6)], 30, temperature=0.9)
    for name, r in REQUESTS.items()
}
scores = {name: style(texts).reshape(6, 6) for name, texts in drafts.items()}

# %%
kept = {}
for name, texts in drafts.items():
    by_scene = np.array(texts, dtype=object).reshape(6, 6)
    kept[name] = list(by_scene[:, 0])
    kept[f"{name}, best of 6"] = [
        row[best] for row, best in zip(by_scene, scores[name].argmax(1), strict=True)
    ]
kept["our GPT"] = [bpe.decode(t) for t in generate_batch(gpt, [bpe.encode("\n\n")] * 40, 40)]
kept["Wikipedia trigram"] = [units.decode(t) for t in generate_batch(trigram, [start] * 40, 30)]
kept["Shakespeare, held out"] = held[1][:40]
kept["copied from the plays"] = passages(plays.text("train"), 40, size=25)
read = set(grams(words(plays.text("train")), 5))

# %% mystnb={"figure": {"name": "tab-wr-style", "caption": "In Shakespeare's style, by two judges: the score by which drafts were chosen, in bits per byte, and the share that a classifier of words takes for Shakespeare. Copied: word 5-grams that stand in the training plays. With 95 % intervals; six texts in the first four rows, forty in the others."}} tags=["nbval-ignore-output"]
table = []
for name, texts in kept.items():
    taken = judge.predict(texts).astype(bool)
    copies = [copied(words(text), read) for text in texts]
    table.append((name, f"{mean(style(texts)):+.1f}", share(taken), mean(copies)))
heads = ["texts", "score (chooses)", "classifier (marks)", "copied"]
Markdown(tabulate(table, heads, tablefmt="pipe", disable_numparse=True))

# %% [markdown]
# Four things can be read off {numref}`tab-wr-style`.
#
# - *The judges disagree about asking.* By the score, the texts that were asked for the style are like those that were
#   not. In the table the classifier agrees, on six texts; over all 36 drafts ({numref}`fig-wr-best`, right, at $n =
#   1$) it gives those that were asked for the style a clearly higher mark, and by more than choosing adds to it.
# - *Choosing does something.* The score of what is kept is higher, by construction. The classifier took no part, and
#   sees the gain where the style had been asked for; with six texts its interval is wide. In {numref}`fig-wr-best` it
#   is followed draft by draft: where the style was asked for, the second draft brings most of it; asked plainly, the
#   curve goes up and down.
# - *A judge likes itself.* Our GPT gives its own texts a far better score than it gives Shakespeare. They are made of
#   what it expects; people write what it does not ({ref}`ch-generation`). (A part of the lead is form: its own texts
#   keep the speakers' names and stage directions, and the held-out passages have lost the words in capitals.) Whoever
#   lets a model mark the texts of models measures this too.
# - *The trivial baseline is as good as the real thing.* Passages copied from the plays have the score of held-out
#   Shakespeare, and the classifier takes every one of them for it. The last column is there for them.


# %% mystnb={"figure": {"name": "fig-wr-best", "caption": "The best of n drafts, by the score that chooses and by the classifier that does not take part. Means over six scenes and all choices of n drafts among six."}, "image": {"alt": "Two line charts over n from 1 to 6. Left, the score rises for both ways of asking, quickly at first and then less. Right, the classifier's log-odds start near zero where the style is asked for and near minus one where it is not; the first curve rises, the second is uneven and ends somewhat higher."}} tags=["nbval-ignore-output"]
def best_of(values, by, n):
    """Mean value of what the highest score keeps, for all ways to take n drafts of a scene."""
    order = np.argsort(-by, 1)
    ranked = np.take_along_axis(values, order, 1)
    m = values.shape[1]
    ways = np.array([math.comb(m - 1 - i, n - 1) for i in range(m)]) / math.comb(m, n)
    return (ranked * ways).sum(1).mean()


odds = {k: judge.decision_function(t).reshape(6, 6) for k, t in drafts.items()}
sizes = range(1, 7)
one, two = plots.panels(2, size=(7.6, 3.0), share_y=False)
chosen = {k: [best_of(scores[k], scores[k], n) for n in sizes] for k in drafts}
marked = {k: [best_of(odds[k], scores[k], n) for n in sizes] for k in drafts}
plots.lines(list(sizes), chosen, "drafts n", "score, bits per byte", ax=one)
plots.lines(list(sizes), marked, "drafts n", "classifier, log-odds", ax=two)
print({k: f"{v[0]:+.2f} to {v[-1]:+.2f}" for k, v in chosen.items()})

# %%
name = "asked for the style"
np.testing.assert_allclose(best_of(scores[name], scores[name], 1), scores[name].mean())
np.testing.assert_allclose(best_of(scores[name], scores[name], 6), scores[name].max(1).mean())
assert np.all(np.diff(chosen[name]) >= 0)
print("best of 1 is the mean, best of 6 the largest, and the score never falls with n")

# %% tags=["nbval-ignore-output"]
for name in ("asked for the style", "asked for the style, best of 6", "our GPT"):
    for text in kept[name][:2]:
        print(f"{name}: {' '.join(text.split())}")

# %% [markdown]
# (sec-wr-own)=
# ### On your own text
#
# Every application of this book runs on a list of your own examples, and from the shell on a file of them (one
# example a line; {ref}`ch-evaluation` has the formats). The model can be a folder of your own training, too.

# %% tags=["nbval-ignore-output"]
mine = ["The old clock in the hall had stopped at", "Dear neighbours, the street will be closed"]
for text, more in zip(mine, applications.load("continue", max_new_tokens=25)(mine), strict=True):
    print(f"{text} |{more}")

# %% [markdown]
# ```
# python -m minilm evaluate smollm2 --task continue --file my.txt
# ```
#
# **Limit.** All numbers of these sections are about form. Whether a story is worth reading, a person has to say, and
# they would have to read more than the three samples that everybody prints.
#
# (sec-wr-headlines)=
# ## Headlines: the shortest summary
#
# {ref}`sec-se-summary` picks sentences out of an article. An *abstractive* summary is written anew. Its shortest form
# has a reference that somebody was paid to write: the headline.
#
# **Task.** The headline of a news article from its opening 60 words. **Data.** News of the BBC of 2004 and 2005
# {cite}`greene2006`, test split. Their rights are not ours: they may be used for study, are fetched only on demand,
# and no text of theirs is passed on with this book. So the outputs below hold counts, and hardly a headline.

# %%
news = data.load_labelled("bbc-news")
record = presets.recorded("headlines")
reference = record["rows"][0]
articles = [writing.article(news.test[place][0]) for place in reference["places"]]
train = [writing.article(text) for text, _ in news.train]
titles = [one.title for one in articles]
assert [len(title.split()) for title in titles] == reference["words"], "not the recorded articles"
print(f"{len(train):,} articles to train, {len(articles)} of the {len(news.test)} to test")
print(record["command"])

# %% [markdown]
# **Measure.** {term}`ROUGE` {cite}`lin2004`: of the words of the headline and those of ours, how many are shared, as
# F-score; ROUGE-1 counts single words, ROUGE-L the longest common subsequence. And since a good ROUGE does not make a
# headline true, a second number: names and numbers in it *that the article does not hold* {cite}`maynez2020`. A word
# counts as a name where it has a capital, and the training articles write it with one more often than not.

# %%
small = writing.usually_small(one.body for one in train)
print(invented("Blair to visit Rome in 2006", "Tony Blair will visit Paris next year.", small))

# %% [markdown]
# **Trivial baseline.** The first seven words: news says first what is new. **Classical baselines.** The first clause,
# up to a comma and ten words at most. The five words with the highest TF-IDF, in the order in which they come. And
# the title of the most similar training article: a headline of professional quality, of another event.


# %%
def first_clause(body):
    clause = re.split(r"[,;:.] | - | that | who | which ", body, maxsplit=1)[0]
    return " ".join(clause.split()[:10])


vectors = TfidfVectorizer(token_pattern=r"\w[\w'-]+", sublinear_tf=True, stop_words="english")
known = vectors.fit_transform(writing.opening(one.body) for one in train)
shown = vectors.transform(writing.opening(one.body) for one in articles)
vocabulary = vectors.get_feature_names_out()


def best_words(body, row):
    top = {vocabulary[i] for i in np.argsort(-row)[:5]}
    found = dict.fromkeys(w for w in re.findall(r"\w[\w'-]+", writing.opening(body).lower()))
    return " ".join(word for word in found if word in top)


# %%
rows = shown.toarray()
nearest = (shown @ known.T).toarray().argmax(1)
headlines = {
    "first seven words": [" ".join(one.body.split()[:7]) for one in articles],
    "first clause": [first_clause(one.body) for one in articles],
    "five best words": [best_words(one.body, row) for one, row in zip(articles, rows, strict=True)],
    "title of the most similar": [train[i].title for i in nearest],
}

# %% [markdown]
# **Our models.** SmolLM2, asked in its chat template; with three training articles and their titles as earlier turns of
# the conversation; and tuned with LoRA of rank 8 on 240 training articles ({ref}`ch-finetuning`). These
# took too long for a notebook and were recorded; the record holds marks, not texts.


# %%
def marks_of(written):
    """ROUGE-1, ROUGE-L, words and invented names of each headline."""
    both = list(zip(written, titles, strict=True))
    one, lcs = (
        [metrics.rouge([text], [title], kind).value for text, title in both]
        for kind in ("rouge1", "rougeL")
    )
    made = [len(invented(text, a.body, small)) for text, a in zip(written, articles, strict=True)]
    return {
        "rouge1": one,
        "rougeL": lcs,
        "words": [len(t.split()) for t in written],
        "invented": made,
    }


measured = {name: marks_of(written) for name, written in headlines.items()}
for row in record["rows"][1:]:
    name = f"SmolLM2, {row['how']}" + f", seed {row['seed']}" * (row["how"] == "LoRA")
    measured[name] = row
measured["the printed headline"] = reference

# %% mystnb={"figure": {"name": "tab-wr-headlines", "caption": "Headlines for 64 articles held out, with 95 % intervals: the bootstrap's, and Wilson's in the last column. ROUGE is between 0 and 1. Invented: the share of headlines with a name or a number that stands nowhere in the article."}}
table = []
for name, found in measured.items():
    made = share([n > 0 for n in found["invented"]])
    columns = (mean(found["rouge1"]), mean(found["rougeL"]), f"{np.mean(found['words']):.1f}", made)
    table.append((name, *columns))
heads = ["headlines", "ROUGE-1", "ROUGE-L", "words", "invented"]
Markdown(tabulate(table, heads, tablefmt="pipe", disable_numparse=True))

# %%
lora = np.mean([found["rougeL"] for name, found in measured.items() if "LoRA" in name], 0)
for other in ("first seven words", "SmolLM2, asked", "SmolLM2, three examples"):
    print(f"LoRA minus {other}: {metrics.paired(lora, measured[other]['rougeL'])}")

# %% [markdown]
# {numref}`tab-wr-headlines` rewards reading it in three directions.
#
# *ROUGE.* The baselines that copy are strong, since the first words of a news article are a summary by trade. Asked,
# SmolLM2 writes whole sentences, more than twice as long as a headline, and stays behind them or level with them;
# three examples in front do not help. 60 steps of LoRA on 240 articles give it the right length and the highest mark,
# ahead of both ways of asking by more than the interval. The lines above the text say which of the differences are
# safe to claim.
#
# *Invented.* What copies from the article hardly can, and the title of another event does so most of the time. The
# printed headlines have a rate above zero too: a first name that the article spells out elsewhere, a number written
# otherwise. That is the floor of the measure. Asked, SmolLM2 is three times above it. Tuned, it is close to the floor.
#
# *What neither sees.* The tuned model writes what looks like a headline, with the right persons in it, and may have the
# wrong one of them act, or win in place of lose. Its names stand in the article, so nothing was *invented*, and enough
# of its words stand in the printed headline for ROUGE to be content. Tuning on examples has taught the form, as it does
# ({ref}`sec-ft-instruct`), and not who did what. For faithfulness a person
# still has to compare {cite}`maynez2020`.

# %% [markdown]
# ### On your own text

# %% tags=["nbval-ignore-output"]
PARAGRAPH = """The town library will stay open until ten at night from March. The council voted for
the change on Monday after a survey in which 412 of 530 readers asked for longer hours. Two
librarians will be hired, and the cost of 60,000 pounds a year is to come from parking fees."""
print("SmolLM2, asked:", applications.load("summarise", "smollm2")([PARAGRAPH])[0])
print("first clause:  ", first_clause(PARAGRAPH))

# %% [markdown]
# ```
# python -m minilm evaluate smollm2 --task summarise --file my.txt
# python -m minilm evaluate headlines --task summarise --file my.txt
# ```
#
# The second line uses the tuned model, which is trained at its first call, in some minutes.
#
# **Limit.** One printed headline is the reference, and ROUGE punishes every other good one. Wording that is not in the
# article may be a good summary or an invention; we count names and numbers because there the two can be told apart.
#
# (sec-wr-translation)=
# ## Translation: phrases
#
# {ref}`ch-t5` has trained a small T5 on phrases of CLDR, and marked it by exact match: right on new phrases, wrong on
# new names. Here the same model meets the measures of the trade, and the baselines that came before networks.
#
# **Data.** 32 test phrases in each language, drawn from all kinds. **Measures.** {term}`BLEU` {cite}`papineni2002` is
# the geometric mean of four precisions, of how many of our 1- to 4-grams stand in the reference, counted over the whole
# test set, times a penalty for being short, with $c$ tokens of ours against $r$ of the reference:
#
# $$
# \operatorname{BLEU} = 100 \cdot \min\bigl(1, e^{1 - r/c}\bigr) \cdot \Bigl( \prod_{n=1}^{4} p_n \Bigr)^{1/4} .
# $$ (eq-wr-bleu)
#
# {term}`chrF` {cite}`popovic2015` does the like with runs of characters, so a wrong ending costs little. By hand, for
# one sentence of eight tokens against one of nine (nothing counts more often than the reference has it):

# %%
ours = "le petit chat noir est sur le tapis".split()
right = "le petit chat noir est assis sur le tapis".split()
shared = [Counter(grams(ours, n)) & Counter(grams(right, n)) for n in range(1, 5)]
p = [both.total() / (len(ours) + 1 - n) for n, both in enumerate(shared, start=1)]
by_hand = 100 * math.exp(1 - len(right) / len(ours)) * math.prod(p) ** 0.25
theirs = BLEU(tokenize="none").corpus_score([" ".join(ours)], [[" ".join(right)]])
assert abs(by_hand - theirs.score) < 1e-9
print(
    "precisions", [f"{x:.2f}" for x in p], f"penalty {math.exp(1 - 9 / 8):.2f}, BLEU {by_hand:.1f}"
)

# %% [markdown]
# **Classical baseline: word for word.** Before phrases and networks there was IBM's Model 1 {cite}`brown1993`, a
# dictionary learnt from pairs. It supposes that each target word $f_j$ was written as the translation of *one* word of
# the source $e_0, \dots, e_I$, any of them being as likely ($e_0$ is empty, for words that come from nowhere):
#
# $$
# P(f \mid e) \propto \prod_{j} \frac{1}{I + 1} \sum_{i=0}^{I} t(f_j \mid e_i) .
# $$ (eq-wr-ibm)
#
# Which word it was is not known, and expectation-maximisation guesses: share each $f_j$ out among the $e_i$ in
# proportion to $t(f_j \mid e_i)$, count the shares, divide, and begin anew. Each round can only raise the likelihood
# of the pairs. In NumPy, with one row for each possible link:


# %%
def lexicon(pairs, rounds=10):
    """IBM Model 1: {source word: {target word: t}} and the log-likelihood before each round."""
    links = [
        (e, f, j)
        for j, (f, source) in enumerate((f, s) for s, t in pairs for f in t)
        for e in ["", *source]
    ]
    kinds = {pair: i for i, pair in enumerate(dict.fromkeys(link[:2] for link in links))}
    sources = {e: i for i, e in enumerate(dict.fromkeys(e for e, _ in kinds))}
    kind = np.array([kinds[link[:2]] for link in links])
    place = np.array([link[2] for link in links])
    owner = np.array([sources[e] for e, _ in kinds])
    t, log = np.full(len(kinds), 1 / len({f for _, f in kinds})), []
    for _ in range(rounds):
        total = np.bincount(place, t[kind])
        log.append(np.log(total).sum())
        counts = np.bincount(kind, t[kind] / total[place])
        t = counts / np.bincount(owner, counts)[owner]
    return {pair: float(t[i]) for pair, i in kinds.items()}, log


# %%
toy = [("the house", "das Haus"), ("the book", "das Buch"), ("a book", "ein Buch")]
toy = [(s.split(), t.split()) for s, t in toy]
ours, log = lexicon(toy)
theirs = IBMModel1([AlignedSent(t, s) for s, t in toy], 10).translation_table
for (e, f), value in ours.items():
    np.testing.assert_allclose(value, theirs[f][e or None], atol=1e-9)
assert np.all(np.diff(log) >= -1e-9)
print(f"as nltk's; t(Buch | book) = {ours['book', 'Buch']:.2f}; the likelihood never fell")

# %% [markdown]
# A phrase is then translated word by word, each into its likeliest translation, in the order of the source; a word
# that was never seen is left as it is. For Chinese, which has no blanks, the pieces of the T5's own tokenizer serve
# as words. Two more baselines: to *copy* the source; and a {term}`translation memory`, the target of the most similar
# training source, with which every program for translators begins.


# %%
def word_for_word(texts, pairs, cut, join):
    t, _ = lexicon([(source.split(), cut(target)) for source, target in pairs])
    best = {}
    for (e, f), value in t.items():
        if value > best.get(e, (0, None))[0]:
            best[e] = value, f
    return [join([best[e][1] if e in best else e for e in text.split()]) for text in texts]


# %% tags=["nbval-ignore-output"]
t5 = multitask.trained()

# %%
draw, phrases, pairs = random.Random(0), {}, {}
for code, prefix in (("fr", tasks.PREFIXES["fr"]), ("zh", tasks.PREFIXES["zh"])):
    parts = tasks.load(code)
    plain = lambda pair, prefix=prefix: (pair.source.removeprefix(prefix), pair.target)
    pairs[code] = [plain(pair) for pair in parts["train"]]
    phrases[code] = [plain(pair) for pair in draw.sample(parts["test"], 32)]
cuts = {"fr": (str.split, " ".join)}
pieces = lambda text: [t5.tokenizer.decode([i]) for i in t5.tokenizer.encode(text)]
cuts["zh"] = pieces, lambda parts: "".join(parts).replace("\ufffd", "")

# %% [markdown]
# **SmolLM2** gets no training but five pairs in its prompt, plain text, and goes on at the sixth. Nobody has taught it
# French on purpose; what it knows stood by chance in its two trillion tokens.

# %%
LANGUAGES = {"fr": "French", "zh": "Chinese"}


def by_example(texts, shots, language, length=20):
    """What SmolLM2 writes after some pairs, each text with its own; one line."""
    line = lambda source, target="": f"English: {source}\n{language}:{' ' * bool(target)}{target}"
    prompts = [
        "\n".join([*(line(*pair) for pair in some), line(text)])
        for text, some in zip(texts, shots, strict=True)
    ]
    ids, stop = list(map(tokenizer.encode, prompts)), {tokenizer.encode("\n")[0]}
    with threads():
        found = generate_batch(model, ids, length, temperature=0.0, stop=stop)
    return [tokenizer.decode(one).strip() for one in found]


# %%
translated = {}
for code, held in phrases.items():
    texts, some = [source for source, _ in held], draw.sample(pairs[code], 5)
    translated[code] = {
        "copy": texts,
        "word for word": word_for_word(texts, pairs[code], *cuts[code]),
        "memory": writing.TranslationMemory(pairs[code])(texts),
        "SmolLM2, five examples": by_example(texts, [some] * 32, LANGUAGES[code]),
        "T5": t5([tasks.PREFIXES[code] + text for text in texts]),
    }


# %% mystnb={"figure": {"name": "tab-wr-phrases", "caption": "32 phrases of CLDR in each language: BLEU and chrF (0 to 100, 95 % bootstrap intervals) and the share that equals the reference."}} tags=["nbval-ignore-output"]
def scored(found, references, tokenize):
    equal = [a == b for a, b in zip(found, references, strict=True)]
    bleu = metrics.bleu(found, references, tokenize)
    return f"{bleu:.0f}", f"{metrics.chrf(found, references):.0f}", share(equal)


table = []
for code, systems in translated.items():
    references, cut = [target for _, target in phrases[code]], {"fr": "13a", "zh": "zh"}[code]
    for name, found in systems.items():
        table.append((LANGUAGES[code], name, *scored(found, references, cut)))
heads = ["into", "system", "BLEU", "chrF", "equal"]
Markdown(tabulate(table, heads, tablefmt="pipe", disable_numparse=True))

# %%
for code, systems in translated.items():
    references = [target for _, target in phrases[code]]
    best = {name: metrics.chrf(found, references).value for name, found in systems.items()}
    assert best["T5"] > max(best["copy"], best["memory"], best["SmolLM2, five examples"])
print("by chrF the T5 is ahead of copying, memory and SmolLM2, in both languages")

# %% [markdown]
# {numref}`tab-wr-phrases` can be read in two ways. From top to bottom: the model that was *trained* on such pairs is
# far ahead, as in {ref}`ch-t5`, although it is a hundred times smaller than SmolLM2. Five examples in a prompt do not
# teach French to a model that has hardly read any. Document 1's "fluent and accurate translations" were said of
# models in general ({ref}`err-quality-claims`); here is one for which it is false, and in fluent rubbish at that.
#
# From left to right: the columns disagree, and each is right about something. The dictionary of 1993 is second in
# French by every measure, since most of a phrase is a list of names, and falls to nothing in Chinese, where a piece
# of BPE is no word. The memory never equals a reference (each test phrase is new), yet BLEU and chrF give it a good
# part of the points, in Chinese about half of them: it answers with *another* date, or another country, in perfect
# wording. A measure of overlap praises the wording. Exact match sees that the date is wrong. Which of them is the
# truth depends on what the translation is for, and only the one who asks can say.

# %% tags=["nbval-ignore-output"]
for code in phrases:
    systems = translated[code]
    wrong = [i for i, pair in enumerate(phrases[code]) if systems["T5"][i] != pair[1]]
    for i in wrong[:3]:
        (source, target), tried = phrases[code][i], [texts[i] for texts in systems.values()]
        print(f"{source} → {target}")
        shown = [f"{name}: {text}" for name, text in zip(systems, tried, strict=True)]
        print("    " + " | ".join(shown[1:]))

# %% [markdown]
# (sec-wr-strings)=
# ## Translation: the strings of a real program
#
# CLDR is regular. The messages of JupyterLab are not: menu entries, questions, explanations of settings, translated
# into Chinese by volunteers, each in the way that seemed best. 1,944 pairs to train, some of them whole paragraphs.
# **Task, measures:** as before, and one more. Names of programs, numbers and placeholders must come through
# unchanged: of the Latin words and numbers that the reference keeps, the share that the translation keeps, too.

# %% tags=["nbval-ignore-output"]
strings = data.load_parallel("ui", "train")
held = random.Random(1).sample(data.load_parallel("ui", "test"), 32)
translator = writing.interface()
print(
    f"{translator.log[-1]['seconds']:.0f} s of training, loss {translator.log[-1]['train_loss']:.1f}"
)

# %% [markdown]
# The T5 is trained from nothing on these pairs alone. SmolLM2 is helped as much as we can: its examples are not the
# same for all, but the three most similar pairs from the memory, so that a good answer may stand in the prompt
# already.

# %%
KEPT = re.compile(r"[A-Za-z][\w.+-]*|\d+|\$")
must = [set(KEPT.findall(s)) & set(KEPT.findall(t)) for s, t in held]
texts, references = (list(side) for side in zip(*held, strict=True))
memory = writing.TranslationMemory(strings)
parts = lambda text: [translator.tokenizer.decode([i]) for i in translator.tokenizer.encode(text)]
systems = {
    "copy": texts,
    "word for word": word_for_word(texts, strings, parts, cuts["zh"][1]),
    "memory": memory(texts),
    "SmolLM2, three most similar": by_example(texts, memory.nearest(texts, 3), "Chinese", 28),
    "T5 of this section": translator([writing.PREFIX + text for text in texts]),
}


# %% mystnb={"figure": {"name": "tab-wr-strings", "caption": "32 interface strings into Chinese. Kept: of the Latin words and numbers that the reference keeps, the share that the translation keeps. 95 % intervals."}} tags=["nbval-ignore-output"]
def keeps(found):
    both = zip(found, must, strict=True)
    return share([name in KEPT.findall(text) for text, names in both for name in names])


table = [(name, *scored(found, references, "zh"), keeps(found)) for name, found in systems.items()]
heads = ["system", "BLEU", "chrF", "equal", "kept"]
Markdown(tabulate(table, heads, tablefmt="pipe", disable_numparse=True))

# %% [markdown]
# In {numref}`tab-wr-strings` the memory leads, most intervals overlap, and nobody is good. Read it as what two thousand
# loose pairs are worth. The T5, far ahead on the regular phrases of CLDR with six times as many pairs, does not reach
# the memory that copies the most similar string. SmolLM2, which sees that very string in its prompt, does not improve
# on it. Copying the English keeps every name, of course, and translates nothing. Hardly any string comes out as the
# volunteers had it.
#
# That is why the programs of translators begin with a memory, show where the new string differs, and leave the last
# word to a person. It is also why the "real but hard" case belongs beside the easy one: whoever shows
# {numref}`tab-wr-phrases` alone has shown that the phrases were easy.

# %% tags=["nbval-ignore-output"]
for i in (0, 7, 14, 21):
    print(f"{texts[i]}  →  {references[i]}")
    print(
        "    "
        + " | ".join(f"{name}: {found[i]}" for name, found in systems.items() if name != "copy")
    )

# %% [markdown]
# ### On your own text

# %% tags=["nbval-ignore-output"]
mine = ["Tuesday, March 4, 2025", "in 3 weeks", "Close all tabs", "The weather is fine."]
print(applications.load("translate", to="fr")(mine))
print(applications.load("translate", to="ui")(mine))

# %% [markdown]
# ```
# python -m minilm evaluate t5 --task translate --file my.txt
# ```
#
# **Limit.** These models translate what their pairs look like, and answer everything else as well. The last of the four
# texts is in no training set, and nothing in the output says so, except the model's own probability ({ref}`ch-t5`).
#
# (sec-wr-dialogue)=
# ## Dialogue: what a turn costs
#
# `chat.reply` streams an answer piece by piece, so that the reader waits for the first word and not for the last:

# %% tags=["nbval-ignore-output"]
talk = [{"role": "user", "content": "Give me one tip for growing tomatoes."}]
pieces = []
with threads():
    for piece in chat.reply(model, tokenizer, talk, max_new_tokens=40, temperature=0.0):
        print(piece, end="", flush=True)
        pieces.append(piece)
talk.append({"role": "assistant", "content": "".join(pieces)})

# %% [markdown]
# The model has no memory. At the next turn the whole conversation is its prompt again, and is read again: with turns of
# $m$ tokens, turn $k$ reads $k m$, and $k$ turns read $m k (k+1) / 2$. The {term}`KV cache` can do better. What was
# read does not change, since a decoder looks to the left only; keep the keys and values, and each turn reads what is
# new. `generate.Reader` holds such a cache. The catch is that the ids must be *continued* and not encoded anew: a text
# that a model wrote need not be cut into the tokens it was written in.


# %%
def next_turn(request):
    """What stands between two answers: the end of a turn, the request, a new start."""
    start, end = (tokenizer.specials[mark] for mark in (chat.START, chat.END))
    line, asked = tokenizer.encode("\n"), tokenizer.encode(f"user\n{request}")
    return [end, *line, start, *asked, end, *line, start, *tokenizer.encode("assistant\n")]


# %%
def converse(requests, length=24):
    """For each turn: tokens so far, tokens newly read, seconds to the first token."""
    ids, turns = chat.encode(tokenizer, [{"role": "user", "content": requests[0]}]), []
    reader = Reader(model, [ids], room=800)
    for place, request in enumerate(requests):
        if place:
            reader.unread = [next_turn(request)]
            reader.texts[0] += reader.unread[0]
        new, before, started = len(reader.unread[0]), len(reader.texts[0]), time.perf_counter()
        token = int(reader.logits()[0].argmax())
        turns.append((before, new, time.perf_counter() - started))
        for _ in range(length):
            if token in END:
                break
            reader.append([token])
            token = int(reader.logits()[0].argmax())
    return turns, reader.texts[0]


# %%
REQUESTS = """Give me one tip for growing tomatoes. | And for beans?
| How often should I water them? | What helps against snails? | When do I harvest? | Can I grow them on a balcony?
| Which soil is best? | Thank you. What else should I know?"""
with threads(), torch.inference_mode():
    turns, ids = converse([request.strip() for request in REQUESTS.split("|")])
    before = turns[-1][0]
    again = generate_batch(model, [ids[:before]], 24, temperature=0.0, stop=END)[0]
assert again == ids[before:]
print("the last answer is what the model writes when it reads the whole conversation anew")

# %% mystnb={"figure": {"name": "fig-wr-turns", "caption": "Tokens that have to be read before the first token of an answer can be written: the whole conversation at each turn, or what is new since the last."}, "image": {"alt": "Two lines over eight turns. The whole conversation rises steadily to several hundred tokens at the eighth turn. What is new stays below fifty at every turn."}} tags=["nbval-ignore-output"]
whole, new, seconds = (list(column) for column in zip(*turns, strict=True))
curves = {"whole conversation": whole, "new since the last turn": new}
plots.lines(range(1, 9), curves, "turn", "tokens to read")
print(f"in eight turns: {sum(whole):,} tokens read without the cache, {sum(new):,} with it")
print("seconds to the first token, with it:", [f"{s:.2f}" for s in seconds])

# %% [markdown]
# {numref}`fig-wr-turns` is {ref}`ch-generation` once more, stretched over a conversation: without the cache the cost
# of a turn grows with everything that was said before, and the sum over the turns with the square of their number.
# With it, a turn costs what is new in it, and the waiting time before the first token no longer grows with the
# conversation. What does grow is memory, 46 kB for each token of the conversation ({numref}`tab-llm-ladder`), and
# at 8,192 tokens it ends: then something must be left out, and nobody has told the model what it may forget.
#
# (sec-wr-memory)=
# ### What is remembered
#
# The conversation stands in the context, word for word. Is it used? **Task:** a code word is told, then come $k$ turns
# about other things, then the word is asked for. **Data:** twelve words for each distance, fillers written beforehand
# (the assistant's part as well, so that no answer of the model gets in the way; words and fillers are drawn anew for
# each distance). In the last row the word is *changed* on the way. **Baselines:** one guess among the 24 words of the
# list; and a regular expression that finds the last *code word is*, which is always right.

# %%
FILLERS = """Name a colour. | Blue. || What is two plus two? | Four. || Name a fruit. | An apple.
|| Which month comes after May? | June. || Name an animal. | A horse. || What do bees make? | Honey.
|| Name a metal. | Iron. || What is ice made of? | Water. || Name a planet. | Mars.
|| How many legs has a spider? | Eight."""
fillers = [[part.strip() for part in turn.split("|")] for turn in FILLERS.split("||")]
who = ("user", "assistant")
spoken = lambda turns: [
    {"role": role, "content": text} for turn in turns for role, text in zip(who, turn, strict=False)
]


def recall_talk(word, k, rng, instead_of=None):
    told = [[f"Please remember: the code word is {word}.", "I will remember it."]]
    if instead_of:
        first = [f"Please remember: the code word is {instead_of}.", "I will remember it."]
        told = [
            first,
            *rng.sample(fillers, 2),
            ["I changed my mind. T" + told[0][0][18:], told[0][1]],
        ]
    return spoken([*told, *rng.sample(fillers, k), ["What is the code word?"]])


# %%
rng, recalled = random.Random(0), {}
for k in (0, 3, 9):
    talks = [(word, recall_talk(word, k, rng)) for word in rng.sample(NOUNS, 12)]
    recalled[f"told {k} turns ago"] = talks
twice = [rng.sample(NOUNS, 2) for _ in range(12)]
recalled["changed 2 turns ago"] = [(new, recall_talk(new, 2, rng, old)) for new, old in twice]
texts = iter(said([talk for talks in recalled.values() for _, talk in talks], 12))
found = {k: [next(texts) for _ in talks] for k, talks in recalled.items()}
hits = {
    k: [word in words(text) and sum(n in words(text) for n in NOUNS) == 1
        for (word, _), text in zip(recalled[k], texts, strict=True)]
    for k, texts in found.items()
}  # fmt: skip
print(recalled["changed 2 turns ago"][0][1][-7]["content"])

# %% mystnb={"figure": {"name": "tab-wr-memory", "caption": "The code word, and no other word of the list, stands in the answer: 12 conversations a row, with 95 % intervals. A guess is right once in 24 times, the regular expression always."}} tags=["nbval-ignore-output"]
last = re.compile(r"code word is (\w+)")
rule = lambda talk: last.findall(" ".join(m["content"] for m in talk))[-1]
assert all(rule(talk) == word for talks in recalled.values() for word, talk in talks)
table = [(k, share(hits[k]), repr(found[k][0])) for k in hits]
Markdown(
    tabulate(table, ["code word", "right", "an answer"], tablefmt="pipe", disable_numparse=True)
)

# %% [markdown]
# The word stands in the context in every row of {numref}`tab-wr-memory`, and the model can attend to it at any
# distance. Asked at once, it finds it in somewhat more than half of the conversations. After three turns about other
# things it names it hardly ever: it goes on with the fillers, or makes a word up. (Where it fails at once, it may take
# the word *code* itself for the answer, as in the first row.) So "the context has 8,192 tokens" says what fits and not
# what is used. Large models are far better at this and lose things in the middle
# of long contexts all the same {cite}`liu2024lost`. Whoever needs a fact to be remembered puts it into the last
# message, or keeps it in a table beside the model: the regular expression is right every time.
#
# (sec-wr-instructions)=
# ### What is obeyed
#
# Whether an answer is good is a matter of opinion; whether it is in lower case is not. Instructions of the second kind
# can be checked by a program, and benchmarks are made of them {cite}`zhou2023ifeval`. **Data:** the capitals of 20
# countries, asked for plainly and under five instructions. **Baselines:** the plain answers, checked against
# instructions that nobody gave (some obey by chance); and a constant text for each instruction, which obeys always.

# %%
COUNTRIES = """France Italy Spain Germany Japan China Egypt Kenya Peru Chile Canada Mexico Norway
Sweden Poland Greece Russia India Cuba Austria""".split()
CAPITALS = """Paris Rome Madrid Berlin Tokyo Beijing Cairo Nairobi Lima Santiago Ottawa Mexico Oslo
Stockholm Warsaw Athens Moscow Delhi Havana Vienna""".split()


def is_json(text):
    try:
        return list(json.loads(text)) == ["answer"]
    except (ValueError, TypeError):
        return False


RULES = {
    "one word": ("Answer with one word only.", lambda t: len(words(t)) == 1),
    "lower case": ("Answer in lower case letters only.", lambda t: t == t.lower()),
    "JSON": ('Answer as JSON with the one key "answer".', is_json),
    "three points": ("Answer in three bullet points.", lambda t: len(POINT.findall(t)) == 3),
    "last words": (
        'End with the words "That is all."',
        lambda t: t.strip().endswith("That is all."),
    ),
}
POINT = re.compile(r"^\s*(?:[-*•]|\d[.)])\s", re.M)

# %%
question = "What is the capital of {}?".format
orders = {"plain": "", **{rule: text for rule, (text, _) in RULES.items()}}
texts = iter(said([f"{question(c)} {o}".strip() for o in orders.values() for c in COUNTRIES], 32))
obeying = {rule: [next(texts) for _ in COUNTRIES] for rule in orders}
plain = obeying.pop("plain")
names = lambda texts: [c.lower() in t.lower() for c, t in zip(CAPITALS, texts, strict=True)]

# %% mystnb={"figure": {"name": "tab-wr-instructions", "caption": "Twenty questions under each instruction: the share that obeys, the share of plain answers that obeys by chance, the share with the right capital, and both. With 95 % intervals. The printed line above is the share that is right when asked plainly."}} tags=["nbval-ignore-output"]
table = []
for rule, texts in obeying.items():
    check = RULES[rule][1]
    kept, chance = [check(t) for t in texts], np.mean([check(t) for t in plain])
    both = [a and b for a, b in zip(kept, names(texts), strict=True)]
    table.append((rule, share(kept), f"{chance:.2f}", share(names(texts)), share(both)))
print("right when asked plainly:", share(names(plain)))
heads = ["instruction", "obeyed", "by chance", "right", "obeyed and right"]
Markdown(tabulate(table, heads, tablefmt="pipe", disable_numparse=True))

# %%
constant = {"one word": "paris", "lower case": "paris", "JSON": '{"answer": "paris"}'}
constant |= {"three points": "- Paris\n- on the\n- Seine", "last words": "Paris. That is all."}
assert all(check(constant[rule]) for rule, (_, check) in RULES.items())
kept = sum(RULES[rule][1](t) for rule, texts in obeying.items() for t in texts)
assert kept < 50, "obeys in fewer than half of the cases"
print("a constant always obeys; SmolLM2 in fewer than half of the cases")

# %% [markdown]
# The two columns in the middle of {numref}`tab-wr-instructions` must be read together with the first. SmolLM2 knows
# these capitals (they are the famous ones; {ref}`sec-llm-capitals` has the others). An instruction about the *form*
# mostly changes nothing: a whole sentence is the form in which it was taught to answer, and a sentence comes. (It can
# also throw the model off: two of the answers printed below say one thing over and over.) Where
# JSON comes, the content suffers: it holds the country in place of its capital, or something else that is wrong.
# Where a list of three points comes, the capital is right each time; in the printed answer it is one point three
# times. Obeying and being right are two abilities, and their conjunction, in the last column, is what an application
# needs.
#
# Nobody has to hope for the form, though. JSON can be forced ({ref}`sec-cl-constrained`), lower case is one call of a
# function, and sixteen steps of LoRA taught a format in {ref}`ch-finetuning`. Prompting is the weakest of the four.

# %% tags=["nbval-ignore-output"]
for rule, texts in obeying.items():
    print(f"{rule}: {texts[2]!r}")

# %% [markdown]
# (sec-wr-refusal)=
# ### What is made up
#
# An answer can also be: *I do not know*. **Data:** the same question about twenty countries that do not exist.
# **Measure:** the share of answers that say in any way that something is wrong (a *not*, a *sorry*, a *fictional*).

# %%
NOWHERE = """Vorania Keldoria Mastria Ulbonia Tarvia Quendor Zabrinia Ostreva Pelmora Rintania
Calvoria Drenmark Eskania Farlund Golvia Hestria Jorvania Lumaria Noravia Welmark""".split()
DOUBT = re.compile(r"\b(not|no|unknown|fictional|fictitious|sorry|unable|unfamiliar)\b|n't", re.I)
careful = [{"role": "system", "content": 'If you are not sure, say "I do not know."'}]
asks = lambda c: [{"role": "user", "content": question(c)}]
talks = {
    (name, kind): [before + asks(country) for country in places]
    for name, before in (("as it comes", []), ("told to say so", careful))
    for kind, places in (("real", COUNTRIES), ("invented", NOWHERE))
}
texts = iter(said([talk for some in talks.values() for talk in some], 16))
doubts = {key: [next(texts) for _ in some] for key, some in talks.items()}

# %% mystnb={"figure": {"name": "tab-wr-refusal", "caption": "Questions for the capitals of twenty real and of twenty invented countries, with 95 % intervals. The best that could be: the first column 1, the second 0, the third 1."}} tags=["nbval-ignore-output"]
table = [("always: I do not know", share([False] * 20), share([True] * 20), share([True] * 20))]
for name in ("as it comes", "told to say so"):
    real, made = doubts[name, "real"], doubts[name, "invented"]
    unsure = [[bool(DOUBT.search(text)) for text in texts] for texts in (real, made)]
    table.append((f"SmolLM2, {name}", share(names(real)), *map(share, unsure)))
heads = ["answers", "right, real", "doubts, real", "doubts, invented"]
Markdown(tabulate(table, heads, tablefmt="pipe", disable_numparse=True))

# %% tags=["nbval-ignore-output"]
for country, text in list(zip(NOWHERE, doubts["as it comes", "invented"], strict=True))[:4]:
    print(f"{country}: {text!r}")

# %% [markdown]
# {numref}`tab-wr-refusal`: it answers, nearly always, about countries that do not exist, in the sentence that it has
# learnt for such questions, with a capital that it makes up as it goes. That is {term}`hallucination` with nothing
# to be mistaken about. The sentence in the system's message, *say that you do not know*, adds one doubt in twenty
# where doubt belongs, which may be chance, and costs five right answers in twenty where it does not. (It also takes
# the place of the message that SmolLM2 was trained with, so not all of the loss need be its own.) The constant in the
# first row is the fair comparison for the last column, and shows why no column can stand alone.
#
# Why does it not doubt? Little in its training made that pay: nearly all questions that it was tuned on were followed
# by an answer ({ref}`sec-llm-chat`). The model's probabilities know more than its words ({ref}`ch-t5`), and looking
# things up before answering moves the problem to a search that can be measured ({ref}`sec-se-library`).
#
# ### On your own text

# %% tags=["nbval-ignore-output"]
tool = applications.load("chat", system="Answer in one short sentence.", max_new_tokens=30)
print(tool(["What is a good name for a cat?"]))

# %% [markdown]
# ```
# python -m minilm evaluate smollm2 --task chat --file my.txt
# python -m minilm serve
# ```
#
# The second command opens the same model as a page in the browser, with the probabilities of the tokens beside the
# text.
#
# **Limit.** Twenty questions of one kind. The intervals say how much that is worth for questions *of this kind*, and
# nothing about others.
#
# (sec-wr-all)=
# ## All applications of the five documents
#
# Each of the essays has a section on practical applications, and none has a number. {numref}`tab-wr-all` lists what
# they name, and where this book has measured it: with data, baselines, an interval and failures.
#
# ```{list-table} What the documents say that language models are for, and where it is measured.
# :name: tab-wr-all
# :header-rows: 1
# :widths: 26 16 26 32
#
# * - Application
#   - Documents
#   - Measured in
#   - By, and against
# * - generation: stories, poems
#   - 0, 1, 2
#   - {ref}`ch-generation`, {ref}`sec-wr-stories`, {ref}`sec-wr-style`
#   - repetition, copying, words used; a template, a trigram
# * - generation: letters, mail
#   - 0
#   - {ref}`sec-wr-letters`
#   - the form of a letter; mail merge
# * - generation: news
#   - 0
#   - {ref}`sec-wr-headlines`, the headline of a given article
#   - ROUGE, invented names; the first words
# * - summaries, extractive
#   - 0, 2, 3, 4
#   - {ref}`sec-se-summary`
#   - ROUGE against the lead; first sentences
# * - summaries, abstractive
#   - 0, 2, 3, 4
#   - {ref}`sec-wr-headlines`
#   - ROUGE, invented names; the first words
# * - machine translation
#   - all
#   - {ref}`ch-t5`, {ref}`sec-wr-translation`, {ref}`sec-wr-strings`
#   - exact match, BLEU, chrF; phrase book, word for word, memory
# * - question answering
#   - all
#   - {ref}`sec-se-closed`, {ref}`sec-se-span`, {ref}`sec-se-library`
#   - exact match, F1; frequent answers, retrieval
# * - sentiment
#   - 1, 2, 3, 4
#   - {ref}`ch-bert`, {ref}`ch-finetuning`, {ref}`sec-cl-sentiment`
#   - accuracy; lexicon, bag of words
# * - text classification
#   - 3
#   - {ref}`sec-cl-topics`
#   - accuracy, F1; bag of words
# * - semantic analysis to structured data
#   - 0, 2
#   - {ref}`sec-cl-json`
#   - valid and exact JSON; patterns
# * - semantic search
#   - 3
#   - {ref}`sec-se-search`
#   - recall, MRR; TF-IDF, BM25
# * - dialogue
#   - 2
#   - {ref}`ch-llm`, {ref}`sec-wr-dialogue`
#   - recall, obedience, doubt; rules and constants
# ```
#
# The same list runs on a file of your own:

# %% tags=["nbval-ignore-output"]
for application in applications.APPLICATIONS.values():
    print(f"{application.name:10} {application.does}")

# %% [markdown]
# ## The answer
#
# *What may one ask a small language model to write?* What it was trained for: phrases like those it has seen in pairs,
# and, once tuned on a few hundred of them, headlines. For the rest it writes fluently and does not do as it is told:
# half of its stories use the given words, hardly any of its answers keeps a form, a fact is gone after three turns, and
# what it does not know it makes up. Each of these can be mended outside the model, by forcing a form, choosing among
# drafts, looking up a fact, and each of the mends was better than the better request.
#
# *And how would one notice that it has failed?* Not by reading a sample, since the samples are fluent. By a number
# that a program can count, an interval, and a baseline that obeys without understanding anything. Where a template, a
# copy or a constant is perfect, the number does not measure what one wanted to know; and where a model cannot beat
# them, one knows enough.
#
# ## What we learnt
#
# - Count before you read: repetition within a text and across texts, copying, what was asked for and is there.
# - Control by asking is a hope; control by decoding (words that are already written, the best of several drafts) is a
#   fact. The best of $n$ leaves the model by $\log n - \frac{n-1}{n}$ nats and no more.
# - Whoever chooses must not mark.
# - For headlines, some hundred examples and LoRA beat every way of asking; seven copied words are a strong baseline,
#   and never invent anything.
# - A metric of overlap does not see an invented number. Count those apart.
# - Where texts repeat, a memory that copies is the system to beat; where they follow rules, the trained model is.
# - A model has no memory but its context; a cache makes each turn cost what is new in it.
# - Obeying, being right and knowing when not to answer are three abilities. Measure them apart.
#
# ## Exercises
#
# ```{exercise} Distinct over many texts
# :label: ex-wr-distinct
#
# Write `distinct(texts, n)`: the number of different $n$-grams of words in all texts together, over the number of
# $n$-grams. A text is a list of words, and no $n$-gram reaches from one text into the next. Without an $n$-gram it is
# 1.
# ```


# %% tags=["exercise"]
def distinct(texts, n):
    """Distinct-n of several texts, each a list of words."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def distinct(texts, n):
    """Distinct-n of several texts, each a list of words."""
    found = [gram for text in texts for gram in grams(text, n)]
    return len(set(found)) / len(found) if found else 1.0


# %% tags=["check"]
same = "a b c d".split()
assert distinct([same], 2) == 1 and distinct([same, same], 2) == 0.5
assert distinct([["a", "b"], ["c", "b"], ["c", "d"]], 2) == 1, "b c is in no text"
assert distinct([["a"], []], 2) == 1, "no pair at all"
assert distinct(["a b a b".split()], 2) == 2 / 3, "ab, ba, ab: the last pair counts too"
assert distinct([["a", "bc"], ["ab", "c"]], 2) == 1, "two pairs, not one word"
for texts in (stories["template"], stories["asked, greedy"]):
    lists = [words(text) for text in texts]
    assert (
        abs(distinct(lists, 1) - (1 - repeated([w for text in lists for w in text], 1))) < 1e-12
    ), "n = 1"
print("distinct over all texts")

# %% [markdown]
# ```{exercise} How many drafts?
# :label: ex-wr-drafts
#
# A draft obeys with probability $p$, independently of the others. Write `drafts_needed(p, wanted)`: the least number of
# drafts of which one or more obeys with probability `wanted` or more. Both numbers are between 0 and 1, ends excluded.
# ```


# %% tags=["exercise"]
def drafts_needed(p, wanted):
    """Least n with a probability of at least ``wanted`` that one of n drafts obeys."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def drafts_needed(p, wanted):
    """Least n with a probability of at least ``wanted`` that one of n drafts obeys."""
    return max(1, math.ceil(math.log(1 - wanted) / math.log(1 - p) - 1e-12))


# %% tags=["check"]
for p, wanted in ((0.5, 0.5), (0.5, 0.75), (0.3, 0.95), (0.9, 0.2), (0.05, 0.99)):
    n = drafts_needed(p, wanted)
    assert n == int(n) >= 1, "a whole number, and one at least"
    assert 1 - (1 - p) ** n >= wanted - 1e-9, f"{n} are too few for p = {p}"
    assert n == 1 or 1 - (1 - p) ** (n - 1) < wanted - 1e-9, f"fewer than {n} would do"
print("drafts for 95 %:", [drafts_needed(p, 0.95) for p in (0.1, 0.3, 0.6)])

# %% [markdown]
# ```{exercise} chrF by hand
# :label: ex-wr-chrf
#
# Write `chrf_of(ours, right)` for one sentence, without blanks: for each $n$ from 1 to 6 the precision and the recall
# of character $n$-grams, counted as in BLEU, each averaged over those $n$ for which both sides have an $n$-gram; then
# $F = 100 \cdot 5 P R / (4 P + R)$, in which recall counts double. No overlap at all gives 0.
# ```


# %% tags=["exercise"]
def chrf_of(ours, right):
    """chrF of one sentence, 0 to 100."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def chrf_of(ours, right):
    """chrF of one sentence, 0 to 100."""
    precisions, recalls = [], []
    for n in range(1, 7):
        mine, theirs = (Counter(grams("".join(text.split()), n)) for text in (ours, right))
        if mine and theirs:
            precisions.append((mine & theirs).total() / mine.total())
            recalls.append((mine & theirs).total() / theirs.total())
    P, R = (np.mean(side) if side else 0.0 for side in (precisions, recalls))
    return 100 * 5 * P * R / (4 * P + R) if P + R else 0.0


# %% tags=["check"]
compared = [("le chat noir", "le petit chat"), ("aaab", "aab"), ("un an", "un ans et un an")]
for code, systems_of in translated.items():
    compared += zip(systems_of["T5"][:20], (right for _, right in phrases[code]), strict=False)
for ours, right in compared:
    theirs = metrics.chrf([ours], [right]).value
    assert abs(chrf_of(ours, right) - theirs) < 0.01, (ours, right, theirs)
assert (
    chrf_of("abc", "xyz") == chrf_of("", "abc") == 0
    and abs(chrf_of("dans 3 jours", "dans 3 jours") - 100) < 1e-9
)
assert chrf_of("abcdef", "abcdefghij") < chrf_of("abcdefghij", "abcdef"), "recall counts double"
print("as sacrebleu's")

# %% [markdown]
# ```{exercise} The price of a conversation
# :label: ex-wr-turns
#
# Write `tokens_read(requests, answers, cached)`: how many tokens a model reads in a conversation whose turn $k$ adds
# `requests[k]` tokens before the answer and `answers[k]` tokens of answer. Without a cache the whole conversation is
# read before each answer. With one, only what is new; the tokens of an answer are read while it is written, in either
# case, and count once.
# ```


# %% tags=["exercise"]
def tokens_read(requests, answers, cached):
    """Tokens that pass through the model in a conversation."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def tokens_read(requests, answers, cached):
    """Tokens that pass through the model in a conversation."""
    total = before = 0
    for request, answer in zip(requests, answers, strict=True):
        total += answer + request + (0 if cached else before)
        before += request + answer
    return total


# %% tags=["check"]
assert tokens_read([10], [5], False) == tokens_read([10], [5], True) == 15
assert tokens_read([10, 20], [5, 7], True) == 42
assert tokens_read([10, 20], [5, 7], False) == 57, "the second turn reads the first again"
m = [8] * 30
assert tokens_read(m, [0] * 30, False) == 8 * 30 * 31 // 2, "m k (k + 1) / 2"
assert tokens_read([1, 1, 1], [10, 10, 10], False) == 66, "every earlier answer is read again"
print("with and without")

# %% [markdown]
# ## Further reading
#
# - {cite}`li2016diversity` on distinct-$n$ and dull answers; {cite}`pillutla2021` compare the distribution of texts
#   with that of people in place of single texts.
# - {cite}`stiennon2020` tuned summaries on the choices of people, used the best of $n$, and saw both over-optimised.
# - {cite}`maynez2020` on summaries that say what is not in the text.
# - {cite}`papineni2002` on BLEU, {cite}`post2018` on why its number needs a signature, {cite}`popovic2015` on chrF.
# - {cite}`brown1993` on the models of IBM, of which the first is here.
# - {cite}`zhou2023ifeval` on instructions that a program can check; {cite}`ji2023` on hallucination.
