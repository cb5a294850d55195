"""What the tests of all pages look at: charts by key, and what every page has to be whatever the trace is like."""

import json
import re

from app.pages import discover
from tests.app.conftest import shown

PAGES = tuple(page.name for page, _ in discover())
ABOUT_A_TRACE = tuple(page.name for page, _ in discover() if page.needs_trace)
NO_WORDS = re.compile(r"\b(nan|NaN|NaT|None(?! got)|inf|NA)\b")  # what a missing value looks like, unformatted
TAGS = re.compile(r"<(?:img|script|iframe|object|embed|base|b>bold)|href=.?javascript:|\son\w+=[^&>]*>", re.IGNORECASE)
MARKDOWN = re.compile(r"<(?:img|script)|\]\(|:red\[|\$x\^?2?\$", re.IGNORECASE)


def charts_of(test):
    """Keys of the charts on a page, and what each says to who cannot see it."""
    return {
        "chart_" + element.proto.id.split("-chart_")[-1]: element.proto
        for element in test.get("plotly_chart")
        if element.proto.alt
    }


def sound(test):
    """No exception, a heading, no missing value spelt out, every chart with words and data; the page's HTML."""
    assert not test.exception, [(error.message, *error.stack_trace) for error in test.exception]
    text = shown(test)
    assert re.search("rw-title|rw-state", text)
    assert not NO_WORDS.search(re.sub("<[^>]*>", " ", text)), NO_WORDS.search(text)
    for proto in charts_of(test).values():
        assert len(proto.alt) > 40
        assert not NO_WORDS.search(proto.alt), proto.alt
        assert json.loads(proto.spec)["data"], proto.alt
    return text


def settled(test):
    """The page in words and charts, without what stands out (found in the background) and the seconds a query took."""
    text = re.sub(r'<h2 class="rw-section">What stands out.*?(?=<div class="rw-tiles">)', "", sound(test), flags=re.S)
    drawn = {key: proto.spec for key, proto in charts_of(test).items()}
    return re.sub(r"; [0-9.]+ s\.", "", text), drawn


def running(test):
    """What a browser would make elements or requests of: HTML of page and charts, Markdown of widgets."""
    found = []
    for node in test._tree:
        proto, kind = getattr(node, "proto", None), getattr(node, "type", "")
        if kind in ("html", "plotly_chart"):
            text = str(proto.body if kind == "html" else proto.spec)
            found += [] if text.startswith("<style>") else TAGS.findall(text)
        elif proto is not None:
            texts = [str(getattr(proto, name, "")) for name in ("body", "label", "help", "text")]
            texts += [str(option.content) for option in getattr(proto, "options", ()) if hasattr(option, "content")]
            found += [part for text in texts for part in MARKDOWN.findall(text)]
    return found
