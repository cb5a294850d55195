"""Every table becomes a picture: valid XML, one mark per value, names escaped."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from probes import metrics
from probes.errors import UsageError
from probes.metrics.plots import save_plot, svg
from tests.probes.metrics.cases import random_case
from tests.probes.metrics.lawbook import options


@pytest.mark.parametrize("name", metrics.discover())
def test_every_metric_can_be_drawn(name: str) -> None:
    metric = metrics.get(name)
    frame = getattr(metrics, name)(**random_case(5), **options(metric))
    root = ElementTree.fromstring(svg(frame, metric))
    assert metric.title in "".join(root.itertext())
    assert len(list(root.iter())) > 10


def test_a_heat_map_has_a_cell_per_layer_and_expert() -> None:
    case = random_case(5)
    root = ElementTree.fromstring(svg(metrics.load(**case), metrics.get("load")))
    cells = [e for e in root.iter() if e.tag.endswith("rect") and e.get("fill", "").startswith("#")]
    assert len(cells) == 1 + len(case["layers"]) * case["num_experts"]


def test_names_from_a_trace_are_text_and_nothing_else(tmp_path: Path) -> None:
    case = random_case(5)
    case["label"] = case["label"].copy()
    case["label"][case["label"] == "a"] = "<script>alert(1)</script>"
    save_plot(metrics.npmi(**case), metrics.get("npmi"), tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_only_svg_and_html(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"writes \.svg or \.html"):
        save_plot(metrics.load(**random_case(5)), metrics.get("load"), tmp_path / "x.png")
