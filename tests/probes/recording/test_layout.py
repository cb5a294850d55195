"""Rows of forward passes find their tokens, whatever the padding and however many passes."""

from dataclasses import dataclass

import numpy as np

from probes.recording.layout import lay_out


@dataclass
class Pass:
    mask: np.ndarray
    position: np.ndarray
    phase: str


def prefill(lengths, left):
    size = max(lengths)
    mask = np.array([[(c >= size - n) if left else (c < n) for c in range(size)] for n in lengths])
    position = np.where(mask, mask.cumsum(1) - 1, -1)
    return Pass(mask, position, "prefill")


def test_right_and_left_padding_give_the_same_rows():
    lengths = [3, 1, 2]
    for left in (False, True):
        forward = prefill(lengths, left)
        layout = lay_out([forward], lengths, lengths)
        assert layout.position.tolist() == [0, 1, 2, 0, 0, 1]
        assert layout.sequence.tolist() == [0, 0, 0, 1, 2, 2]
        values = (10 * np.arange(3)[:, None] + forward.position).reshape(-1)
        assert layout.gather([values], -1).tolist() == [0, 1, 2, 10, 20, 21]


def test_rows_in_order_are_not_copied():
    layout = lay_out([prefill([2, 2], left=False)], [2, 2], [2, 2])
    values = np.arange(4)
    assert layout.identity
    assert layout.gather([values], -1) is values


def test_decoding_continues_the_sequence_and_padding_after_its_end_is_dropped():
    first = prefill([2, 1], left=True)
    steps = [Pass(np.ones((2, 1), bool), np.array([[2 + n], [1 + n]]), "decode") for n in range(2)]
    # Sequence 0 generated three tokens (two of them fed), sequence 1 stopped after one (not fed).
    layout = lay_out([first, *steps], lengths=[5, 2], fed=[4, 1])
    assert layout.position.tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert layout.phase.tolist() == [0, 0, 1, 1, 1, 0, 1]
    parts = [np.array([1, 2, 0, 5]), np.array([3, 99]), np.array([4, 99])]
    assert layout.gather(parts, -1).tolist() == [1, 2, 3, 4, -1, 5, -1]
