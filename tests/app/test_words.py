"""The sentences under the headings say what the numbers say."""

import numpy as np
import pandas as pd

from app import words


def test_load_names_the_busiest_and_counts_the_idle():
    frame = pd.DataFrame({"layer": [0, 0, 1, 1], "expert": [0, 1, 0, 1], "count": [30, 10, 40, 0]})
    frame["ratio"] = [1.5, 0.5, 2.0, 0.0]
    text = words.load(frame)
    assert "expert 0 of layer 1, with 2.00 times" in text
    assert "of 4 experts in 2 layers, 1 was never chosen" in text


def test_nothing_recorded_is_not_a_load_of_zero():
    frame = pd.DataFrame({"layer": [0], "expert": [0], "count": [0], "ratio": [np.nan]})
    assert words.load(frame) == "No routing has been recorded yet."


def test_curve_runs_between_its_ends():
    frame = pd.DataFrame({"layer": [3, 4, 5], "value": [0.5, np.nan, 0.25]})
    assert words.curve(frame, "cv") == "Cv runs from 0.250 in layer 5 to 0.500 in layer 3."


def test_coverage():
    frame = pd.DataFrame({"layer": [0, 1], "n_tokens": [10, 10], "n_missing": [0, 5]})
    assert words.coverage(frame) == (
        "25\u00a0% of the token–layer pairs have no routing (5 of 20); most in layer 1, 50\u00a0%."
    )
    assert words.coverage(frame.assign(n_missing=0)).startswith("Nothing is missing: 10 tokens")


def test_a_token_that_is_surer_everywhere_is_not_called_unsure():
    frame = pd.DataFrame({"layer": [0, 1], "value": [0.1, 0.2], "mean": [0.3, 0.4], "n": [9, 9]})
    assert "surer" in words.token_entropy(frame)
    assert "least sure about it in layer 1: 0.900 nats" in words.token_entropy(frame.assign(value=[0.5, 0.9]))
