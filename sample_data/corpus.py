"""What the model reads: one small generator per label, everything drawn from a seed, nothing downloaded.

A *passage* is a list of items; an item is a prompt, which is given, and an answer, which is to be learnt. Some
combinations (sums, question forms, contradicting values) are put aside by a hash of what they are: `held_out=False`
never draws them and `held_out=True` draws nothing else, so evaluation cannot meet what training has seen.
"""

import random
from collections.abc import Callable
from typing import NamedTuple

from sample_data import formal, languages, world
from sample_data.world import Fact


class Item(NamedTuple):
    """A prompt and its answer; free text has an empty prompt."""

    prompt: str
    answer: str


Passage = list[Item]


def is_held_out_sum(a: int, b: int) -> bool:
    """One sum in eight is put aside, and its mirror image with it: 47+35 would otherwise give 35+47 away."""
    return world.bucket("sum", min(a, b), max(a, b), of=8) == 0


def sum_steps(a: int, b: int) -> str:
    """Column addition, lowest digit first, so that each step needs two digits and the carry just written.

    >>> sum_steps(47, 35)
    '7+5=12 carry 1; 4+3+1=8'
    """
    steps, carry = [], 0
    columns = list(zip(reversed(str(a)), reversed(str(b)), strict=True))
    for place, (x, y) in enumerate(columns):
        total = int(x) + int(y) + carry
        written = f"{x}+{y}+{carry}={total}" if place else f"{x}+{y}={total}"
        carry = total // 10
        steps.append(written if place == len(columns) - 1 else f"{written} carry {carry}")
    return "; ".join(steps)


def sum_item(a: int, b: int) -> Item:
    """`a+b=`, answered with the steps between the thinking marks and then the sum."""
    return Item(f"{a}+{b}=", f"<think>{sum_steps(a, b)}</think>{a + b}")


def draw_sum(rng: random.Random, held_out: bool) -> tuple[int, int]:
    """Two numbers of two digits, or (three times in ten) of three."""
    low, high = (100, 1000) if rng.random() < 0.3 else (10, 100)
    while True:
        a, b = rng.randrange(low, high), rng.randrange(low, high)
        if is_held_out_sum(a, b) == held_out:
            return a, b


def arithmetic(rng: random.Random, held_out: bool) -> Passage:
    """One sum with its steps."""
    return [sum_item(*draw_sum(rng, held_out))]


def question(fact: Fact, form: int, marker: str = "") -> str:
    """A question about `fact`; `marker` says where to look (`from memory`, `from the text`)."""
    asked = world.QUESTIONS[fact.kind][form].format(person=fact.person)
    return f"Question{f' ({marker})' if marker else ''}: {asked}\nAnswer:"


def statement(fact: Fact, value: str, form: int) -> str:
    """A sentence that says `value` of the fact's person."""
    return world.STATEMENTS[fact.kind][form].format(person=fact.person, value=value)


def facts(rng: random.Random, held_out: bool) -> Passage:
    """A true statement, or a question about a fact; held out means a question form never used for this very fact."""
    fact = rng.choice(world.facts())
    kept_back = world.held_out_question(fact)
    if held_out:
        return [Item(question(fact, kept_back), f" {fact.value}")]
    if rng.random() < 0.25:
        return [Item("", statement(fact, fact.value, rng.randrange(len(world.STATEMENTS[fact.kind]))))]
    forms = [form for form in range(len(world.QUESTIONS[fact.kind])) if form != kept_back]
    return [Item(question(fact, rng.choice(forms)), f" {fact.value}")]


class Claim(NamedTuple):
    """What a text says of a fact, and it is false."""

    fact: Fact
    value: str


MARKERS = {"text": "from the text", "memory": "from memory"}

# Looking a value up in the text is learnt late and all at once (facts are known from memory long before); many texts
# with a single claim and more questions about the text bring that on sooner.
CLAIMS_PER_TEXT = (1, 1, 1, 1, 2, 2, 2, 3, 3)
ASKED_IN_TRAINING = ("text", "text", "memory")


def draw_claims(rng: random.Random, held_out: bool) -> list[Claim]:
    """One to three claims about different people."""
    while True:
        chosen = rng.sample(world.facts(), rng.choice(CLAIMS_PER_TEXT))
        options = [world.contradictions(fact, held_out) for fact in chosen]
        if all(options) and len({fact.person for fact in chosen}) == len(chosen):
            return [Claim(fact, rng.choice(values)) for fact, values in zip(chosen, options, strict=True)]


def text_of(rng: random.Random, claims: list[Claim]) -> str:
    """The contradicting text, in one of the ways each claim can be put."""
    forms = [rng.randrange(len(world.STATEMENTS[claim.fact.kind])) for claim in claims]
    said = (statement(claim.fact, claim.value, form) for claim, form in zip(claims, forms, strict=True))
    return f"Text: {' '.join(said)}\n"


def context_item(claim: Claim, ask: str) -> Item:
    """The question about a claim: the text's value is the answer, or the truth, as `ask` says."""
    answer = claim.value if ask == "text" else claim.fact.value
    return Item(question(claim.fact, 0, MARKERS[ask]), f" {answer}")


def context(rng: random.Random, held_out: bool) -> Passage:
    """A contradicting text with up to three questions, each from the text or from memory."""
    claims = draw_claims(rng, held_out)
    asked = rng.sample(claims, min(len(claims), rng.randint(1, 3)))
    items = [context_item(claim, rng.choice(ASKED_IN_TRAINING)) for claim in asked]
    return [Item(text_of(rng, claims) + items[0].prompt, items[0].answer), *items[1:]]


def _free(generate: Callable[[random.Random], str]) -> Callable[[random.Random, bool], Passage]:
    """A label without questions: all of it is to be learnt, and only its seed sets evaluation apart."""
    return lambda rng, held_out: [Item("", generate(rng))]


GENERATORS: dict[str, Callable[[random.Random, bool], Passage]] = {
    "arithmetic": arithmetic,
    "facts": facts,
    "context": context,
    "code": _free(formal.code),
    "json": _free(formal.json_record),
    "sql": _free(formal.sql),
    "english": _free(languages.english),
    "german": _free(languages.german),
    "spanish": _free(languages.spanish),
}


def text_of_passages(passages: list[Passage]) -> str:
    """A document as it stands on the page: one item a line (code takes several)."""
    return "\n".join(item.prompt + item.answer for passage in passages for item in passage)
