"""What would let the text of a trace run: forbidden everywhere in the app, and looked for in the files themselves."""

import re
from pathlib import Path

import pytest

import app

FILES = sorted(path for path in Path(app.__file__).parent.rglob("*") if path.suffix in (".py", ".js", ".css", ".svg"))
FORBIDDEN = {
    ".py": (
        r"unsafe_allow_html",
        r"unsafe_allow_javascript",
        r"\bpickle\b",
        r"components\.v1",
        r"\beval\(",
        r"\bexec\(",
    ),
    ".js": (
        r"innerHTML",
        r"outerHTML",
        r"insertAdjacentHTML",
        r"document\.write",
        r"\beval\(",
        r"https?://",
        r"fetch\(",
    ),
    ".css": (r"https?://", r"@import", r"url\("),
    ".svg": (r"<script", r"href"),
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_that_makes_text_run(path):
    text = path.read_text("utf-8")
    for pattern in FORBIDDEN[path.suffix]:
        assert not re.search(pattern, text), f"{path}: {pattern}"


def test_the_lint_would_notice():
    assert re.search(FORBIDDEN[".py"][0], "st.markdown(token, unsafe_allow_html=True)")


def test_markdown_is_not_used_for_anything():
    """Markdown loads images and follows directives; what is shown goes through text, code or escaped HTML."""
    for path in FILES:
        if path.suffix == ".py":
            assert not re.search(
                r"st\.(markdown|write|caption|info|error|warning|success)\(", path.read_text("utf-8")
            ), path


def test_parts_that_run_by_themselves_say_what_is_wrong_with_the_trace():
    """An exception in a fragment of Streamlit reaches no one above it; `ui.part` shows it in a line."""
    for path in FILES:
        assert path.name == "ui.py" or "@st.fragment\n" not in path.read_text("utf-8"), path
