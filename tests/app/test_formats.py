"""Numbers as people read them."""

from datetime import datetime

import pytest

from app.formats import count, date, number, percent, plural, short_count, size


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (count, 1234567, "1,234,567"),
        (count, float("nan"), "–"),
        (count, None, "–"),
        (short_count, 950, "950"),
        (short_count, 9_500, "9,500"),
        (short_count, 12_345, "12.3 k"),
        (short_count, 1_234_567, "1.23 M"),
        (short_count, 2_000_000_000, "2 G"),
        (number, 0, "0"),
        (number, 0.12345, "0.123"),
        (number, 1.0, "1.00"),
        (number, 12.345, "12.3"),
        (number, 123.4, "123"),
        (number, 12345.6, "12,346"),
        (number, 1e-5, "1e-05"),
        (number, float("nan"), "–"),
        (percent, 0.1234, "12.3\u00a0%"),
        (percent, 0.00001, "< 0.1\u00a0%"),
        (percent, 0.99999, "> 99.9\u00a0%"),
        (percent, 1, "100\u00a0%"),
        (percent, 0, "0\u00a0%"),
        (size, 512, "512 B"),
        (size, 1536, "1.5 KiB"),
        (size, 5 * 2**30, "5.0 GiB"),
        (date, datetime(2025, 11, 2, 8, 3), "2 Nov 2025, 08:03"),
        (date, "2025-11-02T08:03:00", "2 Nov 2025, 08:03"),
        (date, "soon", "soon"),
        (date, None, "–"),
    ],
)
def test_formats(function, value, text):
    assert function(value) == text


def test_plural():
    assert [plural(n, "token") for n in (0, 1, 1200)] == ["0 tokens", "1 token", "1,200 tokens"]
