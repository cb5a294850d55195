"""Sentences of English, German and Spanish from small grammars that get gender, case and agreement right."""

import random

from sample_data.words import words

EN_PEOPLE = words("fisherman teacher girl boy neighbour queen merchant poet doctor shepherd grandmother captain")
EN_THINGS = words(
    "boat letter apple lamp garden window basket book river stone ladder candle bridge coat bell mirror wagon kettle "
    "map door"
)
EN_ADJECTIVES = words("old small quiet green heavy bright strange broken lovely cold wooden famous empty golden")
EN_VERBS = words("found carried sold painted forgot repaired wanted watched lost described opened hid borrowed")
EN_PLACES = words(
    "near the harbour|behind the mill|in the village|under the old tree|on the hill|by the sea|in the market|"
    "at the station|across the field"
)
EN_TIMES = words("In the morning|Last winter|Every Sunday|After the storm|Before dinner|Long ago|At midnight")

DE_PEOPLE = words(
    "der Fischer|die Lehrerin|das Mädchen|der Junge|die Nachbarin|die Königin|der Händler|der Dichter|die Ärztin|"
    "der Hirte|das Kind|die Großmutter"
)
DE_THINGS = words(
    "das Boot|der Brief|der Apfel|die Lampe|der Garten|das Fenster|der Korb|das Buch|der Fluss|der Stein|die Leiter|"
    "die Kerze|die Brücke|der Mantel|die Glocke|der Spiegel|der Wagen|der Kessel|die Karte|die Tür"
)
DE_ADJECTIVES = words("alt klein still grün schwer hell seltsam schön kalt berühmt leer golden neu warm")
DE_VERBS = words("findet trägt verkauft malt vergisst sucht kauft sieht verliert beschreibt öffnet versteckt holt")
DE_PLACES = words(
    "am Hafen|hinter der Mühle|im Dorf|unter dem Baum|auf dem Hügel|an der See|auf dem Markt|am Bahnhof|auf dem Feld"
)
DE_TIMES = words("Am Morgen|Im Winter|Jeden Sonntag|Nach dem Sturm|Vor dem Essen|Heute|Um Mitternacht")

ES_PEOPLE = words(
    "el pescador|la maestra|la niña|el niño|la vecina|la reina|el comerciante|el poeta|la doctora|el pastor|"
    "la abuela|el capitán"
)
ES_THINGS = words(
    "el barco|la carta|la manzana|la lámpara|el jardín|la ventana|la cesta|el libro|el río|la piedra|la escalera|"
    "la vela|el puente|el abrigo|la campana|el espejo|el carro|la olla|el mapa|la puerta"
)
ES_ADJECTIVES = words("viejo pequeño tranquilo verde pesado claro extraño roto hermoso frío famoso vacío dorado nuevo")
ES_VERBS = words("encuentra lleva vende pinta olvida repara busca mira pierde describe abre esconde compra")
ES_PLACES = words(
    "cerca del puerto|detrás del molino|en el pueblo|bajo el árbol|en la colina|junto al mar|en el mercado|"
    "en la estación|por el campo"
)
ES_TIMES = words("Por la mañana|En invierno|Cada domingo|Después de la tormenta|Antes de cenar|Hoy|A medianoche")


def capital(text: str) -> str:
    """First letter upper case, the rest untouched (German nouns keep theirs)."""
    return text[0].upper() + text[1:]


def english(rng: random.Random) -> str:
    """One sentence of English, past tense."""

    def noun(nouns: list[str]) -> str:
        adjective = f"{rng.choice(EN_ADJECTIVES)} " if rng.random() < 0.6 else ""
        return f"the {adjective}{rng.choice(nouns)}"

    who, other, thing, second = noun(EN_PEOPLE), noun(EN_PEOPLE), noun(EN_THINGS), noun(EN_THINGS)
    verb, place = rng.choice(EN_VERBS), rng.choice(EN_PLACES)
    return rng.choice(
        (
            f"{capital(who)} {verb} {thing} {place}.",
            f"{rng.choice(EN_TIMES)} {who} {verb} {thing}, and {other} {rng.choice(EN_VERBS)} {second}.",
            f"{capital(who)} said that {thing} was {rng.choice(EN_ADJECTIVES)}.",
            f"Because {thing} was {rng.choice(EN_ADJECTIVES)}, {who} {verb} {second} {place}.",
            f"There was {thing.replace('the', 'no', 1)} {place}, so {who} {verb} {second}.",
            f"When {who} {verb} {thing}, {other} was {place}.",
        )
    )


def _german_noun(rng: random.Random, nouns: list[str], case: str) -> str:
    """Article, perhaps a weakly inflected adjective, and noun, in the nominative or the accusative."""
    article, noun = rng.choice(nouns).split()
    masculine_object = article == "der" and case == "accusative"
    ending = "en" if masculine_object else "e"
    adjective = f"{rng.choice(DE_ADJECTIVES)}{ending} " if rng.random() < 0.6 else ""
    return f"{'den' if masculine_object else article} {adjective}{noun}"


def german(rng: random.Random) -> str:
    """One sentence of German, present tense, with its word order in main and subordinate clauses."""
    who, other = (_german_noun(rng, DE_PEOPLE, "nominative") for _ in range(2))
    thing, second = (_german_noun(rng, DE_THINGS, "accusative") for _ in range(2))
    subject, adjective = _german_noun(rng, DE_THINGS, "nominative"), rng.choice(DE_ADJECTIVES)
    verb, place = rng.choice(DE_VERBS), rng.choice(DE_PLACES)
    return rng.choice(
        (
            f"{capital(who)} {verb} {thing} {place}.",
            f"{rng.choice(DE_TIMES)} {verb} {who} {thing}, und {other} {rng.choice(DE_VERBS)} {second}.",
            f"{capital(who)} sagt, dass {subject} {adjective} ist.",
            f"Weil {subject} {adjective} ist, {verb} {who} {second} {place}.",
            f"{capital(subject)} war nicht {place}, also {verb} {who} {second}.",
            f"Wenn {who} {thing} {verb}, bleibt {other} {place}.",
        )
    )


def _spanish_adjective(rng: random.Random, article: str) -> str:
    """An adjective that agrees with the article's gender."""
    word = rng.choice(ES_ADJECTIVES)
    return word[:-1] + "a" if article == "la" and word.endswith("o") else word


def _spanish_noun(rng: random.Random, nouns: list[str]) -> str:
    """Article, noun and perhaps an adjective behind it."""
    article, noun = rng.choice(nouns).split()
    adjective = f" {_spanish_adjective(rng, article)}" if rng.random() < 0.6 else ""
    return f"{article} {noun}{adjective}"


def spanish(rng: random.Random) -> str:
    """One sentence of Spanish, present tense."""
    who, other = _spanish_noun(rng, ES_PEOPLE), _spanish_noun(rng, ES_PEOPLE)
    thing, second = _spanish_noun(rng, ES_THINGS), _spanish_noun(rng, ES_THINGS)
    adjective = _spanish_adjective(rng, thing.split()[0])
    verb, place = rng.choice(ES_VERBS), rng.choice(ES_PLACES)
    return rng.choice(
        (
            f"{capital(who)} {verb} {thing} {place}.",
            f"{rng.choice(ES_TIMES)} {who} {verb} {thing}, y {other} {rng.choice(ES_VERBS)} {second}.",
            f"{capital(who)} dice que {thing} es {adjective}.",
            f"Como {thing} es {adjective}, {who} {verb} {second} {place}.",
            f"No hay nada {place}, así que {who} {verb} {second}.",
            f"Cuando {who} {verb} {thing}, {other} está {place}.",
        )
    )
