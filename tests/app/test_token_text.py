"""What cannot be seen in a token becomes a mark; what can be seen stays as it is."""

import pytest

from app.components.token_text import MAX_SHOWN, legible, line_breaks, pieces, right_to_left, visible
from tests.app.traces import HOSTILE


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" the", "␣the"),
        ("a\n", "a⏎"),
        ("\t", "⇥"),
        ("\x00", "␀"),
        ("\x1b[0m", "␛[0m"),
        ("\x7f", "␡"),
        ("", "∅"),
        (None, "∅"),
        ("<0xE2><0x82>", "E2 82"),
        ("\u202eabc\u202c", "U+202EabcU+202C"),
        ("\u200b", "U+200B"),
        ("\u2028", "U+2028"),
        ("\ud800", "U+D800"),
        ("👩‍👩‍👧", "👩‍👩‍👧"),
        ("<b>", "<b>"),
    ],
)
def test_visible(token, shown):
    assert visible(token) == shown


@pytest.mark.parametrize(
    ("name", "shown"),
    [("run  one", "run  one"), ("a␣b", "a␣b"), ("x\u202ey\n", "xU+202Ey⏎"), ("", "∅"), (7, "7"), ("a\x00b", "a␀b")],
)
def test_legible_keeps_spaces(name, shown):
    assert legible(name) == shown


def test_text_and_marks_are_told_apart():
    assert [tuple(piece) for piece in pieces(" a b")] == [("mark", "␣"), ("text", "a"), ("mark", "␣"), ("text", "b")]


def test_a_very_long_token_is_cut():
    assert len(visible("a" * 10_000)) == MAX_SHOWN + 1


def test_line_breaks():
    assert [line_breaks(token) for token in ("a", "\n", "\n\n", None)] == [0, 1, 2, 0]


def test_direction_of_the_lines():
    assert right_to_left(["كان", " النهر", " x"])
    assert not right_to_left(["the", " كان", " river"])
    assert not right_to_left(["12", "!", None])


def test_every_hostile_token_has_pieces_that_are_text():
    for token in HOSTILE:
        found = pieces(token)
        assert found
        "".join(piece.text for piece in found).encode()  # no lone surrogate is left
