"""Recording from a real browser: upload, start, watch, open what was recorded; and nobody else sees it."""

import json

import pytest

from probes.sample import sample_path
from tests.browser.conftest import Server, comes_to, wait_until

pytestmark = pytest.mark.browser
PROMPTS = "\n".join(json.dumps({"text": text, "label": text[:3]}) for text in ("12+34=", "The river <b>had</b> risen"))


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """A dashboard without a trace, and the folder it records into."""
    folder = tmp_path_factory.mktemp("recorded")
    running = Server(["--record-to", folder])
    yield running, folder
    running.interrupt()


def test_from_an_upload_to_the_open_trace(page, browser, recording):
    server, folder = recording
    page.goto(f"{server.address}/record")
    upload = {"name": "<img src=x>.jsonl", "mimeType": "application/json", "buffer": PROMPTS.encode()}
    page.locator("[data-testid=stFileUploader] input").set_input_files(upload)
    page.wait_for_selector("text=2 prompts, 2 labels")
    comes_to(str(sample_path().resolve() / "model"), page.get_by_label("Model, a folder on this machine").input_value)
    page.get_by_label("Tokens to generate").fill("24")
    page.get_by_label("Name of the trace").fill("mine")
    page.get_by_role("button", name="Start").click()
    page.wait_for_selector("[data-testid=stProgress]")
    page.wait_for_selector("text=Loading the model")
    page.get_by_role("button", name="Cancel").wait_for()
    page.wait_for_selector("text=Every prompt went through the model.", timeout=90_000)
    wait_until(lambda: "2 sequences" in page.locator("[data-testid=stCode]").first.inner_text())
    assert sorted(path.name for path in folder.iterdir()) == ["mine.duckdb"]
    address = page.url
    page.get_by_role("link", name="Open mine.duckdb").click()
    page.wait_for_selector(".js-plotly-plot:not(.st-key-rw_fetch_plotly *) .heatmaplayer image")
    wait_until(lambda: "in 2 sequences" in page.inner_text(".rw-lead"))
    page.get_by_role("link", name="Tokens").click()
    page.wait_for_selector(".strip .token")
    wait_until(lambda: "mine.duckdb" in page.inner_text(".rw-eyebrow"))
    assert page.errors == page.dialogs == []
    other = browser.new_context().new_page()
    other.goto(f"{server.address}/?trace=mine.duckdb")
    other.wait_for_selector("text=No trace to look at yet")
    other.goto(address)  # who is given the address sees it
    other.wait_for_selector("text=Open mine.duckdb")
    other.context.close()


def test_cancelling_keeps_what_is_recorded(page, recording):
    server, folder = recording
    page.goto(f"{server.address}/record")
    prompts = "\n".join(json.dumps({"text": f"{n}+{n}="}) for n in range(10, 99)) * 20
    upload = {"name": "many.jsonl", "mimeType": "application/json", "buffer": prompts.encode()}
    page.locator("[data-testid=stFileUploader] input").set_input_files(upload)
    page.wait_for_selector("text=prompts, ")
    page.get_by_label("Tokens to generate").fill("200")
    page.get_by_label("Name of the trace").fill("ended")
    page.get_by_role("button", name="Start").click()
    page.get_by_text("Look at it while it grows").wait_for(timeout=90_000)
    page.get_by_role("button", name="Cancel").click()
    page.wait_for_selector("text=What was recorded by then is in the trace", timeout=60_000)
    assert (folder / "ended.duckdb").is_file()
    page.get_by_role("link", name="Open ended.duckdb").click()
    page.wait_for_selector(".js-plotly-plot:not(.st-key-rw_fetch_plotly *) .heatmaplayer image")
    tokens = page.inner_text(".rw-lead").split()[0]
    assert 0 < int(tokens.replace(",", "")) < 89 * 20 * 200
    assert page.errors == page.dialogs == []
