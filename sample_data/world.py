"""The closed world the facts are about: 80 invented people, each with a town, a trade and an instrument."""

import random
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b

from sample_data.words import words

PEOPLE = words(
    "Tarvo Mirel Osgun Belka Fenro Luska Dovim Hanzi Jorel Kasmu Nerit Pavlo Quorin Rasby Selmo Tulin Umbra Vesko "
    "Wenda Yorik Zalma Arvid Brilo Cosma Dralin Elvo Fribo Gusta Hilmo Irsa Jumka Korbin Lymar Mosko Nolva Ortun "
    "Pilka Rundo Sarvo Tembi Ulrik Varno Wolka Xandu Yelmo Zorin Ambel Borsk Cirlo Dunya Eskil Farno Gelba Hodur "
    "Ilmar Jasko Kelda Lorvin Mundi Nasko Olbra Pernu Ralvo Stelka Trimo Unselm Virka Waldo Yusmo Zeltan Abner Bosmi "
    "Curda Delvo Ervin Fosta Grimba Harlo Imbra Jelto"
)

VALUES = {
    "town": words(
        "Kelm Dorn Vasto Brisk Lunda Farrow Hest Mirn Oslava Pell Quist Rendal Sorn Tavik Ulm Weston Yarra Zell Arden "
        "Corvo"
    ),
    "trade": words(
        "baker farmer potter weaver sailor doctor miller tailor hunter painter teacher carpenter barber mason grocer "
        "lawyer pilot nurse brewer gardener"
    ),
    "instrument": words(
        "flute violin drum harp piano trumpet cello guitar organ banjo oboe horn lute tuba zither clarinet fiddle "
        "bassoon accordion mandolin"
    ),
}

STATEMENTS = {
    "town": (
        "{person} lives in {value}.",
        "The home of {person} is in {value}.",
        "{person} has a house in {value}.",
        "{value} is the town where {person} lives.",
    ),
    "trade": (
        "{person} works as a {value}.",
        "By trade {person} is a {value}.",
        "{person} earns a living as a {value}.",
        "The trade of {person} is {value}.",
    ),
    "instrument": (
        "{person} plays the {value}.",
        "In the evening {person} plays the {value}.",
        "The instrument of {person} is the {value}.",
        "{person} owns a {value} and plays it.",
    ),
}

# The first question of each kind is the one asked about a text; the others only ask for facts.
QUESTIONS = {
    "town": (
        "Where does {person} live?",
        "In which town does {person} live?",
        "Which town is the home of {person}?",
        "What is the town of {person}?",
        "Where is the house of {person}?",
        "{person} lives in which town?",
    ),
    "trade": (
        "What is the trade of {person}?",
        "What does {person} work as?",
        "Which trade does {person} have?",
        "What is the job of {person}?",
        "How does {person} earn a living?",
        "{person} works as what?",
    ),
    "instrument": (
        "What does {person} play?",
        "Which instrument does {person} play?",
        "What is the instrument of {person}?",
        "Which instrument does {person} own?",
        "What does {person} play in the evening?",
        "{person} plays which instrument?",
    ),
}


@dataclass(frozen=True)
class Fact:
    """One true statement about the world: `person`'s `kind` (town, trade or instrument) is `value`."""

    person: str
    kind: str
    value: str


@cache
def facts() -> tuple[Fact, ...]:
    """All 240 facts; the draw has a seed of its own so that changing the recipe never changes the truth."""
    rng = random.Random("world")
    return tuple(Fact(person, kind, rng.choice(values)) for person in PEOPLE for kind, values in VALUES.items())


@cache
def bucket(*parts: object, of: int) -> int:
    """A number in [0, of) that depends on `parts` alone: how combinations are put aside, without any stored list."""
    digest = blake2b("|".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % of


def held_out_question(fact: Fact) -> int:
    """Index of the one question never asked about this fact; not the first, which is asked after texts."""
    return 1 + bucket(fact.person, fact.kind, of=len(QUESTIONS[fact.kind]) - 1)


def contradictions(fact: Fact, held_out: bool) -> list[str]:
    """The false values a text may claim of this fact: one value in eight is only ever met in evaluation."""
    others = [value for value in VALUES[fact.kind] if value != fact.value]
    return [value for value in others if (bucket(fact.person, fact.kind, value, of=8) == 0) == held_out]
