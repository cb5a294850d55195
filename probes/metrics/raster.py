"""A plot's SVG as pixels. It has rectangles, lines and text only, so Pillow (which Streamlit brings) is enough.

Drawn at twice the size and shrunk, which smooths edges. Pillow's own font needs no fonts on the machine; where DejaVu
Sans is there it is taken instead, because it has more letters.
"""

from __future__ import annotations

import io
import re
from functools import cache
from typing import Any
from xml.etree.ElementTree import Element, fromstring

SHARPER = 2  # pixels per unit of the SVG in the finished picture
SMOOTH = 2  # and how many more while drawing
SVG = "{http://www.w3.org/2000/svg}"
INK = "#222222"
ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}


def png(svg: str) -> bytes:
    """The picture as PNG, `SHARPER` pixels for each of the SVG's units."""
    from PIL import Image

    root = fromstring(svg)  # noqa: S314 - our own text, not a stranger's file
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    canvas = _Canvas(width, height)
    canvas.draw_all(root, 0.0, 0.0)
    size = (round(width * SHARPER), round(height * SHARPER))
    out = io.BytesIO()
    canvas.image.resize(size, Image.Resampling.BOX).save(out, "PNG", optimize=True)
    return out.getvalue()


class _Canvas:
    def __init__(self, width: float, height: float) -> None:
        from PIL import Image, ImageDraw

        self.width, self.height = width, height
        self.image = Image.new("RGB", (self._px(width), self._px(height)), "white")
        self.draw = ImageDraw.Draw(self.image)

    def _px(self, units: float) -> int:
        return round(units * SHARPER * SMOOTH)

    def draw_all(self, parent: Element, x: float, y: float) -> None:
        """Everything inside `parent`, moved by (x, y)."""
        for element in parent:
            kind = element.tag.removeprefix(SVG)
            if kind == "g":
                dx, dy = _moved(element)
                self.draw_all(element, x + dx, y + dy)
            elif kind in ("rect", "line", "text", "polygon"):
                getattr(self, f"_{kind}")(element, x, y)

    def _rect(self, element: Element, x: float, y: float) -> None:
        left, top = x + self._length(element, "x"), y + self._length(element, "y")
        right = left + self._length(element, "width", self.width)
        bottom = top + self._length(element, "height", self.height)
        fill, stroke = element.get("fill", INK), element.get("stroke")
        box = [self._px(left), self._px(top), self._px(right), self._px(bottom)]
        if fill != "none" and right > left and bottom > top:
            self.draw.rectangle([*box[:2], max(box[0], box[2] - 1), max(box[1], box[3] - 1)], fill=fill)
        if stroke:
            self.draw.rectangle(box, outline=stroke, width=self._px(1))

    def _line(self, element: Element, x: float, y: float) -> None:
        ends = [(x + self._length(element, f"x{i}"), y + self._length(element, f"y{i}")) for i in (1, 2)]
        width = self._px(float(element.get("stroke-width", "1")))
        self.draw.line([(self._px(a), self._px(b)) for a, b in ends], fill=element.get("stroke", INK), width=width)

    def _polygon(self, element: Element, x: float, y: float) -> None:
        pairs = [pair.split(",") for pair in element.get("points", "").split()]
        points = [(self._px(x + float(a)), self._px(y + float(b))) for a, b in pairs]
        self.draw.polygon(points, fill=element.get("fill", INK))

    def _text(self, element: Element, x: float, y: float) -> None:
        text, font = element.text or "", _font(self._px(float(element.get("font-size", "11"))))
        anchor = ANCHORS[element.get("text-anchor", "start")]
        if "rotate" in element.get("transform", ""):
            dx, dy = _moved(element)
            self._upwards(text, font, x + dx, y + dy)
            return
        at = (self._px(x + self._length(element, "x")), self._px(y + self._length(element, "y")))
        self.draw.text(at, text, fill=INK, font=font, anchor=anchor)

    def _upwards(self, text: str, font: Any, x: float, y: float) -> None:
        """Text turned by a quarter, its middle at (x, y) on the baseline."""
        from PIL import Image, ImageDraw

        long, high = round(font.getlength(text)) + 2, font.size * 2
        strip = Image.new("L", (long, high), 0)
        ImageDraw.Draw(strip).text((long // 2, font.size * 3 // 2), text, fill=255, font=font, anchor="ms")
        turned = strip.transpose(Image.Transpose.ROTATE_90)
        self.image.paste(INK, (self._px(x) - font.size * 3 // 2, self._px(y) - long // 2), turned)

    def _length(self, element: Element, name: str, whole: float = 0.0) -> float:
        text = element.get(name, "0")
        return float(text[:-1]) / 100 * whole if text.endswith("%") else float(text)


def _moved(element: Element) -> tuple[float, float]:
    found = re.search(r"translate\(([-\d.]+) ([-\d.]+)\)", element.get("transform", ""))
    return (float(found[1]), float(found[2])) if found else (0.0, 0.0)


@cache
def _font(size: int) -> Any:
    from PIL import ImageFont

    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)
    except OSError:
        return ImageFont.load_default(size)
