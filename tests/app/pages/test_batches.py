"""The overview tells what a batch is wherever it tells of batches, with the numbers of the command line."""

import pytest

from app.sections.batches import says
from probes import analyze
from tests.app.pages.states import sound


def shown(test):
    """The table of batches."""
    return next(frame.value for frame in test.dataframe if "n_batches" in frame.value)


def test_the_page_has_the_batches_of_the_command_line(open_page, sample):
    test = open_page([sample], "overview", run=1, balance="max ÷ mean", batch=16, devices=4)
    text, table = sound(test), shown(test)
    whole = analyze(sample, "batch_load", run_id=1, size=16, devices=4)
    for column in ("overflow_share", "max_over_mean", "device_max_over_mean"):
        assert table[column].tolist() == pytest.approx(whole[column].tolist(), nan_ok=True)
    assert "16 consecutive tokens of a sequence" in text
    assert says(whole, "device") in text.replace("\u202f", " ")


def test_without_devices_there_are_no_columns_of_them(open_page, sample):
    assert not [c for c in shown(open_page([sample], run=1, balance="max ÷ mean")) if c.startswith("device")]


def test_other_measures_are_not_of_batches(open_page, sample):
    assert not [f for f in open_page([sample], run=1).dataframe if "n_batches" in f.value]


def test_nonsense_in_the_address_counts_as_not_chosen(open_page, sample):
    plain = shown(open_page([sample], run=1, balance="max ÷ mean"))
    wrong = shown(open_page([sample], run=1, balance="max ÷ mean", batch="-1", devices="<b>"))
    assert wrong.equals(plain)


def test_batches_that_cannot_be_filled_are_said(sample):
    table = analyze(sample, "batch_load", run_id=1, size=100_000, batch=("consecutive", "packed", "mixed"))
    assert says(table, "expert") == "No batch of this size can be filled: choose a smaller one."
