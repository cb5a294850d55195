"""Every table becomes a picture: valid XML, one mark per value, names escaped."""

from __future__ import annotations

import io
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from probes import metrics
from probes.errors import UsageError
from probes.metrics.plots import save_plot, svg
from probes.metrics.raster import png
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


def test_tokens_that_no_xml_may_hold_are_replaced() -> None:
    case = random_case(5)
    case["token"] = np.array(["\x00\x08" if i == 0 else f"t{i}" for i in case["token_id"]], object)
    root = ElementTree.fromstring(svg(metrics.npmi(**case, target="token"), metrics.get("npmi")))
    assert "\ufffd\ufffd" in "".join(root.itertext())


@pytest.mark.parametrize("name", metrics.discover())
def test_every_picture_can_be_had_as_pixels(name: str, tmp_path: Path) -> None:
    metric = metrics.get(name)
    frame = getattr(metrics, name)(**random_case(5), **options(metric))
    save_plot(frame, metric, tmp_path / "x.png")
    root = ElementTree.fromstring(svg(frame, metric))
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.size == (2 * int(root.attrib["width"]), 2 * int(root.attrib["height"]))
        assert len(picture.getcolors(1 << 24) or ()) > 20


def test_pixels_are_where_the_svg_says() -> None:
    case = random_case(5)
    frame, metric = metrics.load(**case), metrics.get("load")
    root = ElementTree.fromstring(svg(frame, metric))
    cells = [e for e in root.iter() if e.tag.endswith("rect") and e.get("fill", "").startswith("#")][1:]
    with Image.open(io.BytesIO(png(svg(frame, metric)))) as picture:
        for cell in cells:
            x = (float(cell.attrib["x"]) + float(cell.attrib["width"]) / 2) * 2
            y = (float(cell.attrib["y"]) + float(cell.attrib["height"]) / 2 + 40) * 2
            assert "#%02x%02x%02x" % picture.getpixel((int(x), int(y)))[:3] == cell.get("fill")  # noqa: UP031


def test_intervals_and_what_they_rest_on_are_drawn() -> None:
    case = random_case(5)
    curve = svg(metrics.srp(**case, segment_length=(1, 2, 3), level="layer", ci=True, resamples=20), metrics.get("srp"))
    assert curve.count("<polygon") == len(case["layers"])
    assert "95 % bootstrap intervals" in curve
    bars = svg(metrics.load(**case, summary=True, ci=True, resamples=20), metrics.get("load"))
    assert bars.count('stroke="#000"') == len(case["layers"])
    assert "tokens" in svg(metrics.load(**case), metrics.get("load"))


def test_only_svg_html_and_png(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"writes \.svg, \.html or \.png"):
        save_plot(metrics.load(**random_case(5)), metrics.get("load"), tmp_path / "x.jpg")
