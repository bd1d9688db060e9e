"""The plain-text prompts that keep a multimodal model able to talk.

1,432 distinct prompts from templates and word lists (`text_prompts.toml`): facts, definitions, small
arithmetic, how-to, stories, translations, opinions, greetings, instructions. Nobody writes answers to them:
the base model answers (see `text.py`), so that fine-tuning on photographs does not move what the model says
without one.
No prompt here is one of the held-out questions of `retention.py`.
"""

from __future__ import annotations

from .lexicon import read_table
from .retention import RETENTION_QUESTIONS

WORDS: dict[str, list[str]] = read_table("text_prompts.toml")


def prompts() -> list[str]:
    """Every prompt once, in a fixed order."""
    made: list[str] = []
    made += [f"What is the capital of {c}?" for c in WORDS["capitals"]]
    made += [f"Tell me about {c}." for c in WORDS["capitals"][::2]]
    made += [f"Who wrote {w}?" for w in WORDS["works"]]
    for i, term in enumerate(WORDS["terms"]):
        made.append(("What is {}?", "Define {}.", "Explain {} in simple words.")[i % 3].format(term))
    for i, task in enumerate(WORDS["how_to"]):
        made.append(("How do I {}?", "Give me tips to {}.", "How can I {}?")[i % 3].format(task))
    for i, word in enumerate(WORDS["english_words"]):
        for language in (WORDS["languages"][i % 4], WORDS["languages"][(i + 1) % 4]):
            form = ('How do you say "{}" in {}?', 'Translate "{}" into {}.')[i % 2]
            made.append(form.format(word, language))
    for i, hero in enumerate(WORDS["story_heroes"]):
        made.append(("Write a short story about {}.", "Tell me a story about {}.")[i % 2].format(hero))
    made += [f"Write a sentence about {t}." for t in WORDS["sentence_topics"]]
    made += [f"What do you think about {o}?" for o in WORDS["opinions"]]
    made += [f"Give one advantage of {o}." for o in WORDS["opinions"][::2]]
    made += [f"Tell me a fact about {a}." for a in WORDS["animal_facts"]]
    made += [f"Where do {a} live?" for a in WORDS["animal_facts"][::3] if a not in ("kangaroos",)]
    made += [f'What is the opposite of "{w}"?' for w in WORDS["opposites"]]
    made += [f'Give me a synonym for "{w}".' for w in WORDS["synonyms"]]
    made += [f"{('List', 'Name')[i % 2]} three {thing}." for i, thing in enumerate(WORDS["lists"])]
    made += [f"What is {t} used for?" for t in WORDS["things"]]
    made += [f'Use the word "{t.split()[-1]}" in a sentence.' for t in WORDS["things"]]
    made += [f"Give me three facts about {c}." for c in WORDS["capitals"][1::2]]
    made += [f"What food is {c} known for?" for c in WORDS["capitals"][::3]]
    made += [f"What are some popular {thing}?" for thing in WORDS["lists"][1::2]]
    made += [f"Who was {p}?" for p in WORDS["people"]]
    made += [f"Why is {p} famous?" for p in WORDS["people"][::3]]
    made += [
        f"What is {a} plus {b}?"
        for a, b in ((1, 2), (4, 5), (6, 3), (7, 8), (10, 5), (12, 9), (20, 15), (9, 9))
    ]
    made += [
        f"What is {a} minus {b}?" for a, b in ((5, 2), (9, 4), (10, 7), (15, 5), (20, 8), (8, 8), (30, 12))
    ]
    made += [f"What is {a} times {b}?" for a, b in ((2, 3), (3, 4), (5, 5), (6, 7), (8, 9), (10, 10), (4, 6))]
    made += [
        f"What is {a} divided by {b}?" for a, b in ((6, 2), (9, 3), (20, 4), (100, 10), (18, 6), (42, 7))
    ]
    made += WORDS["single_questions"] + WORDS["chat"] + WORDS["instructions"] + WORDS["yes_no"]
    made += _short_facts()
    held_out = {question for question, _ in RETENTION_QUESTIONS}
    return [prompt for prompt in dict.fromkeys(made) if prompt not in held_out]


def _short_facts() -> list[str]:
    """Facts asked as a quiz asks them, with short answers: what fine-tuning forgets first."""
    countries, places = WORDS["more_countries"], WORDS["capitals"] + WORDS["more_countries"]
    made = [f"What is the capital of {c}?" for c in countries + WORDS["states"]]
    made += [f"What is the main language spoken in {c}?" for c in places[::2]]
    made += [f"What is the currency of {c}?" for c in places[1::2]]
    made += [f"On which continent is {c}?" for c in places[::3]]
    made += [f"Who invented {i}?" for i in WORDS["inventions"]]
    made += [f"Who discovered {d}?" for d in WORDS["discoveries"]]
    made += [f"What is the melting point of {s}?" for s in WORDS["substances"][::2]]
    made += [f"What is the freezing point of {s}?" for s in WORDS["substances"][1::2]]
    made += [f"What is the chemical symbol for {s}?" for s in WORDS["symbols"]]
    made += [f"How many {c}?" for c in WORDS["counts"]]
    made += [f"What color is {c}?" for c in WORDS["colours_of"]]
    made += [f"What is {c} called?" for c in WORDS["called"]]
    made += [f"What organ {o}?" for o in WORDS["organs"]] + [f"What gas {g}?" for g in WORDS["gases"]]
    made += [f"What is {s}?" for s in WORDS["superlatives"]]
    made += [f"Where is {place}?" for place in WORDS["landmarks"]]
    made += [f"What year {y}?" for y in WORDS["years"]]
    made += [f"Who {a}?" for a in WORDS["arts"]] + [f"Who was the {one}?" for one in WORDS["leaders"]]
    made += [f"What is {a} plus {b}?" for a in (2, 3, 5, 8, 11) for b in (1, 4, 6, 7)]
    made += [f"What is {a} minus {b}?" for a in (9, 12, 14) for b in (1, 3, 5)]
    return made
