"""Several people look at one dashboard: what one chooses, asks, changes or records is nobody else's, even at once."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from unittest.mock import MagicMock

import pytest
import streamlit
from streamlit.components.v2.component_manager import BidiComponentManager
from streamlit.runtime import Runtime
from streamlit.testing.v1 import app_test
from streamlit.testing.v1.app_test import (
    DataframeSourceManager,
    MediaFileManager,
    MemoryCacheStorageManager,
    MemoryMediaFileStorage,
)
from streamlit.testing.v1.util import patch_config_options

from app import data, recorder
from tests.app.conftest import show
from tests.app.pages.states import PAGES, settled, sound
from tests.app.pages.test_record_page import filled, wait


def button(test, label):
    return next(found for found in test.button if found.label == label)


def test_choices_are_ones_own(open_page, traces):
    one, other = (open_page([traces["plain"], traces["long"]], "tokens") for _ in range(2))
    before = sound(other.run())
    one.selectbox(key="pick_layer").set_value(2).run()
    one.selectbox(key="pick_trace").set_value("long.duckdb").run()
    assert "long.duckdb" in sound(one)
    assert sound(other.run()) == before
    assert not {"layer", "trace"} & set(other.query_params)
    assert "long.duckdb" in sound(show(one, "consistency"))  # what is remembered from page to page
    assert "plain.duckdb" in sound(show(other, "consistency"))


def test_queries_are_ones_own(open_page, traces):
    one, other = (open_page([traces["plain"]], "sql") for _ in range(2))
    first = other.text_area(key="sql_editor").value
    one.text_area(key="sql_editor").set_value("SELECT 42 AS mine")
    one.button(key="sql_run").click().run()
    other.run()
    assert other.text_area(key="sql_editor").value == first
    assert not other.dataframe
    assert not other.selectbox(key="sql_past").options
    assert "sql" not in other.query_params
    other.button(key="sql_run").click().run()
    one.run()
    assert one.dataframe[0].value["mine"].tolist() == [42]
    assert len(one.selectbox(key="sql_past").options) == 1


def test_what_is_steered_and_kept_is_ones_own(open_page, sample):
    one = open_page([sample], "steering", run=1, spec="ban:expert=1.3")
    other = open_page([sample], "steering", run=1)
    one.text_area[0].set_value("47+35=")
    one.number_input[0].set_value(2)
    button(one, "Run").click().run(timeout=60)
    button(one, "Keep both runs in a trace").click().run(timeout=60)
    (kept,) = (name for name in one.selectbox(key="pick_trace").options if name.startswith("steered-"))
    text = sound(other.run())
    assert "Nothing yet" in text
    assert "What does it write?" not in text
    assert "in memory" in text  # the model is everybody's
    stranger = open_page([sample], trace=kept)  # who only knows its name does not see it
    assert "sample.duckdb" in sound(stranger)
    assert not [box for box in (*other.selectbox, *stranger.selectbox) if box.key == "pick_trace"]


def test_a_recording_is_seen_by_who_has_its_address(open_page, olmoe_folder, tmp_path, jobs):
    start = ["--record-to", tmp_path]
    one = filled(open_page(start, "record"), olmoe_folder)
    (job,) = jobs.values()
    other = open_page(start, "record")
    assert job.token not in sound(other)
    assert other.text_input(key="record_model")
    wait(job)
    for choices in ({}, {"trace": "mine.duckdb"}, {"job": job.token[:-1]}, {"job": "0"}):
        assert "No trace to look at yet" in sound(open_page(start, **choices))
    assert "mine.duckdb" in sound(show(one.run(), "overview"))
    assert "mine.duckdb" in sound(open_page(start, job=job.token))  # the address was passed on


def test_one_more_recording_than_the_machine_takes(open_page, olmoe_folder, tmp_path, jobs):
    for number in range(recorder.AT_ONCE + 1):
        test = open_page(["--record-to", tmp_path], "record")
        test.number_input(key="record_new").set_value(60)
        filled(test, olmoe_folder, trace=f"mine{number}")
    assert len(jobs) == recorder.AT_ONCE
    assert "recordings are running on this machine" in sound(test)


@pytest.fixture
def at_once(monkeypatch):
    """AppTest puts a server in place for each run and takes it away after; here one stays, for several at a time."""
    server = MagicMock(spec=Runtime)
    server.media_file_mgr = MediaFileManager(MemoryMediaFileStorage("/media"))
    server.dataframe_source_mgr = DataframeSourceManager()
    server.cache_storage_manager = MemoryCacheStorageManager()
    server.bidi_component_registry = BidiComponentManager()
    server.bidi_component_registry.discover_and_register_components(start_file_watching=False)
    monkeypatch.setattr(Runtime, "_instance", server)
    monkeypatch.setattr(app_test, "Runtime", type("Own", (Runtime,), {}))
    monkeypatch.setattr(app_test, "patch_config_options", lambda _: nullcontext())
    with patch_config_options({"global.appTest": True}):
        yield


def walk(open_page, traces, pages, choices):
    """What one visitor sees on each page, in words and in charts."""
    test = open_page(traces, **choices)
    seen = {}
    for page in pages:
        show(test, page)
        seen[page] = settled(test)
    return seen


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("pages", [PAGES[::3], pytest.param(PAGES, marks=pytest.mark.slow)], ids=["some", "all"])
def test_two_look_at_once_and_see_what_they_would_see_alone(open_page, unequal, traces, pages):
    """Each in a thread of its own, as in the server, nothing answered before."""
    served = [unequal, traces["bare"]]
    visitors = [{"trace": "unequal.duckdb", "run": 1, "layer": 1}, {"trace": "bare.duckdb", "layer": 2, "expert": 3}]
    alone = [walk(open_page, served, pages, choices) for choices in visitors]
    streamlit.cache_data.clear()
    data.open_file.clear()
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(lambda choices: walk(open_page, served, pages, choices), visitors))
    assert together == alone
    assert alone[0] != alone[1]
