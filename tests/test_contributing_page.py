"""What docs/contributing.md shows works as it stands there, and the decision records have their parts."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/contributing.md").read_text(encoding="utf-8")
RECORDS = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
FILES = re.findall(r"^`(probes/\S+\.py)`:\n```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
SNIPPETS = re.findall(r"^(?!`)[^\n]+:\n```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)

# The files of the page as if they stood in the package: discovery happens when the package is imported.
BESIDE = """
import importlib.util, sys
for package in ("probes.metrics", "probes.interventions.catalogue"):
    spec = importlib.util.find_spec(package)
    spec.submodule_search_locations.append(f"{sys.argv[1]}/{package.replace('.', '/')}")
    sys.modules[package] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    parent, _, name = package.rpartition(".")
    setattr(sys.modules[parent], name, module)
exec(compile(open(sys.argv[2], encoding="utf-8").read(), sys.argv[2], "exec"))
"""


def test_every_block_of_the_page_is_tried():
    assert len(FILES) == len(SNIPPETS) == 2
    assert PAGE.count("```python") == 4


@pytest.mark.parametrize("index", [0, 1], ids=["metric", "intervention"])
def test_the_example_works(index, tmp_path):
    for path, code in FILES:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(code, encoding="utf-8")
    (tmp_path / "snippet.py").write_text(SNIPPETS[index], encoding="utf-8")
    words = [sys.executable, "-c", BESIDE, str(tmp_path), str(tmp_path / "snippet.py")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_has_its_parts_and_is_listed(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# {path.stem[:4]}: ")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]
    title = text.splitlines()[0].split(": ", 1)[1]
    index = (path.parent / "README.md").read_text(encoding="utf-8")
    assert f"| [{path.stem[:4]}]({path.name}) | {title} |" in index


@pytest.mark.parametrize("path", [ROOT / "docs/contributing.md", *RECORDS], ids=lambda path: path.stem)
def test_the_files_it_names_are_there(path):
    text = re.sub(
        r"^`probes/\S+\.py`:\n```python\n.*?^```", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    named = re.findall(r"`((?:probes|store|app|tests|docs)/[\w/.]+)`", text)
    links = [(path.parent / link).resolve() for link in re.findall(r"\]\(([^)#]+)\)", text)]
    assert all((ROOT / name).exists() for name in named if "NNNN" not in name), named
    assert all(link.exists() for link in links), links
