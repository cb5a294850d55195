"""Small pieces of Python, JSON and SQL, each well formed (the tests parse them)."""

import json
import random

from sample_data.words import words

NAMES = words("total price count width height score index limit speed weight offset size rate depth value")
FUNCTIONS = words("add scale clip merge shift update check blend reduce split")
TABLES = words("orders users items invoices sensors books flights players rooms events")
COLUMNS = words("id name price status created city level amount year owner")
WORDS = words("open closed pending red blue north south basic full draft")
OPERATORS = ("+", "-", "*")


def _function(rng: random.Random) -> str:
    name, (a, b) = rng.choice(FUNCTIONS), rng.sample(NAMES, 2)
    return f"def {name}_{a}({a}, {b}):\n    return {a} {rng.choice(OPERATORS)} {b}"


def _loop(rng: random.Random) -> str:
    name, (a, b) = rng.choice(FUNCTIONS), rng.sample(NAMES, 2)
    return (
        f"def {name}_all({a}s):\n    {b} = {rng.randrange(10)}\n    for {a} in {a}s:\n"
        f"        {b} {rng.choice(OPERATORS)}= {a}\n    return {b}"
    )


def _branch(rng: random.Random) -> str:
    a, b = rng.sample(NAMES, 2)
    return (
        f"if {a} {rng.choice(('<', '>', '==', '!='))} {rng.randrange(100)}:\n    {b} = {a}\nelse:\n"
        f"    {b} = {rng.choice(FUNCTIONS)}({a}, {b})"
    )


def _comprehension(rng: random.Random) -> str:
    a, b = rng.sample(NAMES, 2)
    return f"{b}s = [{a} {rng.choice(OPERATORS)} {rng.randrange(1, 10)} for {a} in {a}s if {a} > {rng.randrange(10)}]"


def _class(rng: random.Random) -> str:
    a, b = rng.sample(NAMES, 2)
    return (
        f"class {rng.choice(TABLES).capitalize()}:\n    def __init__(self, {a}, {b}={rng.randrange(10)}):\n"
        f"        self.{a} = {a}\n        self.{b} = {b}"
    )


def code(rng: random.Random) -> str:
    """A few lines of Python."""
    return rng.choice((_function, _loop, _branch, _comprehension, _class))(rng)


def _json_value(rng: random.Random, depth: int) -> object:
    kind = rng.randrange(6 if depth else 4)
    if kind == 4:
        return [rng.randrange(100) for _ in range(rng.randint(1, 3))]
    if kind == 5:
        return {key: _json_value(rng, depth - 1) for key in rng.sample(COLUMNS, 2)}
    return (rng.randrange(1000), rng.choice(WORDS), rng.random() < 0.5, None)[kind]


def json_record(rng: random.Random) -> str:
    """One JSON object on one line, at most two deep."""
    return json.dumps({key: _json_value(rng, 1) for key in rng.sample(COLUMNS, rng.randint(2, 4))})


def _condition(rng: random.Random) -> str:
    value = rng.choice((str(rng.randrange(100)), f"'{rng.choice(WORDS)}'"))
    return f"{rng.choice(COLUMNS)} {rng.choice(('=', '<', '>', '<>'))} {value}"


def sql(rng: random.Random) -> str:
    """One SQL statement."""
    table, (a, b) = rng.choice(TABLES), rng.sample(COLUMNS, 2)
    value = f"'{rng.choice(WORDS)}'"
    return rng.choice(
        (
            f"SELECT {a}, {b} FROM {table} WHERE {_condition(rng)};",
            f"SELECT {a}, COUNT(*) FROM {table} GROUP BY {a} ORDER BY {a} DESC LIMIT {rng.randrange(1, 50)};",
            f"SELECT AVG({a}) FROM {table} WHERE {_condition(rng)} AND {_condition(rng)};",
            f"INSERT INTO {table} ({a}, {b}) VALUES ({rng.randrange(100)}, {value});",
            f"UPDATE {table} SET {a} = {value} WHERE {_condition(rng)};",
            f"DELETE FROM {table} WHERE {_condition(rng)} OR {_condition(rng)};",
            f"SELECT t.{a}, s.{b} FROM {table} t JOIN {rng.choice(TABLES)} s ON t.id = s.id WHERE t.{_condition(rng)};",
        )
    )
