"""The grammars: rich enough not to repeat themselves, and with the agreement they promise."""

import random
import re

import pytest

from sample_data import languages


def _sentences(language, n=1000):
    rng = random.Random(8)
    return [language(rng) for _ in range(n)]


@pytest.mark.parametrize("language", [languages.english, languages.german, languages.spanish])
def test_sentences_are_whole_and_hardly_repeat(language):
    sentences = _sentences(language)
    assert len(set(sentences)) > 900
    assert all(sentence[0].isupper() and sentence.endswith(".") and "  " not in sentence for sentence in sentences)


def test_german_masculine_accusative():
    nouns = [phrase.split() for phrase in languages.DE_PEOPLE + languages.DE_THINGS]
    masculine = {noun for article, noun in nouns if article == "der"}
    found = re.findall(r"\bden (?:(\w+) )?([A-ZÄÖÜ]\w+)", " ".join(_sentences(languages.german)))
    assert {noun for _, noun in found} <= masculine
    assert all(adjective.endswith("en") for adjective, _ in found if adjective)


def test_german_verb_last_in_subordinate_clauses():
    clauses = [sentence for sentence in _sentences(languages.german) if sentence.startswith("Wenn")]
    verbs = set(languages.DE_VERBS)
    assert clauses
    assert all(clause.partition(",")[0].split()[-1] in verbs for clause in clauses)


def test_spanish_adjectives_agree():
    text = " ".join(_sentences(languages.spanish)).lower()
    masculine = {word for word in languages.ES_ADJECTIVES if word.endswith("o")}
    feminine = {word[:-1] + "a" for word in masculine}
    assert not {word for _, word in re.findall(r"\bla (\w+) (\w+)", text)} & masculine
    assert not {word for _, word in re.findall(r"\bel (\w+) (\w+)", text)} & feminine
