"""The Record page: from an upload to a trace that opens; nobody else sees it; what is wrong is said in a line."""

import json
import time

import pytest

from app import options, recorder
from store.trace import open_trace
from tests.app.conftest import show, shown

PROMPTS = "\n".join(json.dumps({"text": f"{n} brown foxes jump over the dog", "label": f"l{n % 2}"}) for n in range(12))


pytestmark = pytest.mark.usefixtures("jobs")


def filled(test, model, content=PROMPTS, name="prompts.jsonl", trace="mine"):
    """The form with an upload, a model and a name, started."""
    test.file_uploader(key="record_prompts").set_value((name, content.encode(), "application/json")).run()
    test.text_input(key="record_model").set_value(str(model))
    test.text_input(key="record_name").set_value(trace)
    return test.button(key="record_start").click().run()


def wait(job, seconds=90):
    deadline = time.monotonic() + seconds
    while job.running:
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_works_without_any_trace(open_page):
    test = open_page([], "record")
    assert not test.exception
    assert "Record" in shown(test)
    assert "No trace to look at yet" not in shown(test)
    assert recorder.check_model(test.text_input(key="record_model").value)  # what is offered can be used


def test_from_upload_to_open_trace_and_nobody_else_sees_it(open_page, olmoe_folder, tmp_path, traces):
    test = filled(open_page(["--record-to", tmp_path], "record"), olmoe_folder)
    assert not test.exception
    (job,) = recorder._jobs.values()
    assert test.query_params["job"] in (job.token, [job.token])
    assert job.trace == tmp_path / "mine.duckdb"
    assert "--trust-remote-code" not in job.command
    wait(job)
    test.run()
    assert not test.exception
    assert "Every prompt went through the model" in shown(test)
    assert "trace=mine.duckdb" in shown(test)
    assert f"job={job.token}" in shown(test)
    assert open_trace(job.trace).run()["n_sequences"] == 12
    show(test, "overview")  # the trace is among those of this visitor
    assert "mine.duckdb" in shown(test)
    other = open_page([traces["plain"], "--record-to", tmp_path], "record")
    assert "mine.duckdb" not in shown(other)
    assert other.text_input(key="record_model")  # the form, not the other's recording
    assert "mine.duckdb" not in str(show(other, "overview").main)


def test_cancel_and_again(open_page, olmoe_folder, tmp_path):
    test = open_page(["--record-to", tmp_path], "record")
    test.number_input(key="record_new").set_value(60)
    filled(test, olmoe_folder)
    (job,) = recorder._jobs.values()
    assert job.running
    test.button(key="record_cancel").click().run()
    wait(job)
    test.run()
    assert "Cancelled" in shown(test)
    assert ("in the trace" in shown(test)) == job.trace.exists()
    assert ("Nothing was recorded by then" in shown(test)) != job.trace.exists()
    test.button(key="record_again").click().run()
    assert not test.exception
    assert test.text_input(key="record_model")
    assert recorder.mine(job.token + ",") == [job]


def test_what_is_in_the_upload_is_said(open_page):
    bad = PROMPTS + '\n{"txt": "<img src=x onerror=alert(1)>"}\nno json <b>'
    test = open_page([], "record")
    test.file_uploader(key="record_prompts").set_value(("<b>.jsonl", bad.encode(), "application/json")).run()
    assert not test.exception
    text = shown(test)
    assert "12 prompts, 2 labels" in text
    assert "2 prompts will be left out" in text
    assert ":13" in text
    assert "<img" not in text
    assert "/tmp" not in text  # where it lay is nobody's business


@pytest.mark.parametrize(
    ("choices", "why"),
    [
        ({"model": "no/such-model"}, "no folder on this machine"),
        ({"trace": "../../etc/x"}, "the name of the trace takes"),
        ({"content": "nothing"}, "upload a file of prompts"),
        ({"content": ""}, "upload a file of prompts"),
    ],
)
def test_what_is_wrong_is_one_line(open_page, olmoe_folder, tmp_path, choices, why):
    test = filled(open_page(["--record-to", tmp_path], "record"), **{"model": olmoe_folder, **choices})
    assert not test.exception
    assert why in shown(test)
    assert not recorder._jobs


def test_a_shared_dashboard_does_not_record_unless_asked(open_page, tmp_path):
    test = open_page(["--shared"], "record")
    assert "switched off" in shown(test)
    assert not test.text_input
    assert open_page(["--shared", "--record-to", tmp_path], "record").text_input


def test_a_token_nobody_has_shows_the_form(open_page):
    test = open_page([], "record", job="x" * 22)
    assert not test.exception
    assert test.text_input(key="record_model")


def test_options_round_trip():
    for given in (options.Options(("a", "b c"), None, False), options.Options((), "/tmp/x y", True)):
        assert options.given(options.as_words(given)) == given
