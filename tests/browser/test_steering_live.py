"""Steering live in a real browser: from a link to two texts, with a model that really runs."""

import pytest

from tests.browser.conftest import Server, comes_to, wait_until


@pytest.fixture(scope="module")
def steering(tmp_path_factory):
    """A dashboard over a recording of the sample model."""
    from probes.model import load_model
    from probes.prompts import Prompt, Prompts
    from probes.recording.record import record
    from probes.sample import sample_path

    path = tmp_path_factory.mktemp("steering") / "sums.duckdb"
    model, tokenizer = load_model(sample_path() / "model")
    texts = {"arithmetic": "11+23=", "english": "The baker has a house in Pell."}
    record(
        model,
        Prompts([Prompt("p", label, text=text, label=label) for label, text in texts.items()], []),
        path,
        tokenizer=tokenizer,
        progress=False,
    )
    running = Server([path])
    yield running
    running.interrupt()


def test_a_link_a_prompt_and_a_click_show_both_texts(browser, steering):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    errors = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(f"{steering.address}/steering?spec=random")
    prompt = tab.get_by_label("Prompt")
    prompt.wait_for(timeout=60_000)
    prompt.fill("47+35=<img src=x onerror=alert(1)>")
    prompt.blur()
    tab.get_by_text("Stop at the end of a line").click()
    tab.get_by_role("button", name="Run", exact=True).click()
    tab.get_by_text("What does it write?").wait_for(timeout=180_000)
    sides = tab.locator(".rw-side-text")
    comes_to(2, sides.count)
    wait_until(tab.locator(".rw-side-text mark").count)  # under random choice it writes something else
    assert tab.locator(".rw-sides img").count() == 0
    wait_until(lambda: "spec=random" in tab.url)
    tab.reload()
    tab.get_by_text("Random choice").first.wait_for(timeout=60_000)
    assert errors == []
    context.close()


def test_a_finding_of_the_trace_is_looked_at_added_and_run(browser, steering):
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    tab = context.new_page()
    tab.goto(f"{steering.address}/steering")
    tab.get_by_text("From this trace").click(timeout=60_000)  # the forms are open while nothing is to be changed
    label = tab.get_by_role("combobox", name="label")
    label.click()
    tab.get_by_role("option", name="arithmetic").click()
    tab.get_by_role("button", name="Look whom it names").click()
    add = tab.get_by_role("button", name="Add to the list")
    add.wait_for(timeout=60_000)
    wait_until(lambda: "2 experts in" in tab.locator("[data-testid=stExpander]").first.inner_text())
    assert tab.locator(".rw-spec").count() == 0
    add.click()
    tab.locator(".rw-spec").wait_for(timeout=30_000)
    wait_until(lambda: "spec=ban" in tab.url)
    prompt = tab.get_by_label("Prompt")
    prompt.fill("47+35=")
    prompt.blur()
    tab.get_by_role("button", name="Run", exact=True).click()
    tab.get_by_text("What does it write?").wait_for(timeout=180_000)
    comes_to(1, tab.get_by_text("model: in memory").count)
    context.close()
