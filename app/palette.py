"""Colours that mean something: one per expert, a scale for amounts, a scale for differences.

Everything here is arithmetic on colours, so that it can be tested. Distances are taken in OKLab (Björn Ottosson 2020),
colour-blind sight is simulated with the matrices of Machado, Oliveira and Fernandes (2009, severity 1).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

MAX_EXPERTS = 256
NO_EXPERT_COLOR = "#9aa3af"

# Four colours of Okabe and Ito (2008) to begin with; the others are found one by one, each as far from all before it as
# it can be. A colour depends on the expert's number alone, so an expert looks the same in every chart.
_FIRST = ("#0072b2", "#e69f00", "#56b4e9", "#d55e00")

# Names other than experts: after Paul Tol's "muted" scheme, a little lighter so that all stand out on dark pages too.
_CATEGORIES = (
    "#cc6677", "#4f86c6", "#cc9a2b", "#2e9e5b", "#58aed4", "#b55fb5", "#3fa99a", "#94943a", "#c0567e", "#8a7bd0",
)  # fmt: skip

SEQUENTIAL = {
    "light": ("#f3f6fa", "#cfe1ee", "#92c3dc", "#4d9cc4", "#20719f", "#0d4a78", "#0a2a4d"),
    "dark": ("#171d27", "#17364c", "#17587a", "#1f83a0", "#46b0ae", "#95d6a4", "#eef6b0"),
}
DIVERGING = {
    "light": ("#1f5fa8", "#6fa3d4", "#bcd5ea", "#f4f4f2", "#f5cfa6", "#e0924a", "#a8540f"),
    "dark": ("#8cc4ff", "#4a87c4", "#274a6d", "#1b212b", "#6b4423", "#c07a35", "#ffbf7a"),
}

_SIGHTS = {
    "usual": np.eye(3),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritan": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def expert_color(expert: int, num_experts: int) -> str:
    """`#rrggbb` of an expert; the same for the same number wherever it is shown.

    `num_experts` only bounds the number: an expert outside 0..num_experts-1 (a missing choice is -1) is grey. Beyond
    256 the colours repeat, and charts name the expert besides.
    """
    if not 0 <= expert < num_experts:
        return NO_EXPERT_COLOR
    return expert_colors()[expert % MAX_EXPERTS]


def category_color(place: int) -> str:
    """`#rrggbb` of a label or another name by its place; grey beyond those that can be told apart."""
    return _CATEGORIES[place] if 0 <= place < len(_CATEGORIES) else NO_EXPERT_COLOR


@lru_cache(maxsize=1)
def expert_colors() -> tuple[str, ...]:
    """The 256 expert colours, each as far from the ones before it as the candidates allow, for every kind of sight."""
    candidates = _candidates()
    seen_as = [oklab(candidates @ sight.T) for sight in _SIGHTS.values()]
    chosen = [_to_rgb(color) for color in _FIRST]
    nearest = np.full(len(candidates), np.inf)
    for color in chosen:
        nearest = np.minimum(nearest, _distance(seen_as, _linear(color[None])))
    while len(chosen) < MAX_EXPERTS:
        best = int(nearest.argmax())
        chosen.append(_gamma(candidates[best]))
        nearest = np.minimum(nearest, _distance(seen_as, candidates[best][None]))
    return tuple(_to_hex(color) for color in chosen)


def scale(kind: str, theme: str) -> list[list[float | str]]:
    """A Plotly colour scale: `kind` is "sequential" (amounts) or "diverging" (differences)."""
    stops = (SEQUENTIAL if kind == "sequential" else DIVERGING)[theme]
    return [[position, color] for position, color in zip(np.linspace(0, 1, len(stops)).tolist(), stops, strict=True)]


def along(values: np.ndarray, theme: str) -> list[str | None]:
    """The sequential colour of each value in 0..1; None where there is no value."""
    stops = np.array([_to_rgb(color) for color in SEQUENTIAL[theme]])
    at = np.linspace(0, 1, len(stops))
    clipped = np.clip(np.nan_to_num(values), 0, 1)
    mixed = np.stack([np.interp(clipped, at, stops[:, channel]) for channel in range(3)], axis=1)
    return [None if np.isnan(value) else _to_hex(color) for value, color in zip(values, mixed, strict=True)]


def apart(first: str, second: str, sight: str = "usual") -> float:
    """OKLab distance of two colours as seen with a kind of sight (usual, protan, deutan, tritan)."""
    both = np.stack([_linear(_to_rgb(color)) for color in (first, second)]) @ _SIGHTS[sight].T
    lab = oklab(both)
    return float(np.linalg.norm(lab[0] - lab[1]))


def oklab(linear: np.ndarray) -> np.ndarray:
    """[n, 3] linear RGB -> [n, 3] OKLab."""
    return np.cbrt(np.clip(linear, 0, 1) @ _LMS.T) @ _LAB.T


def _distance(seen_as: list[np.ndarray], color: np.ndarray) -> np.ndarray:
    """How far each candidate is from `color`, at the worst of the kinds of sight."""
    per_sight = [
        np.linalg.norm(seen - oklab(color @ sight.T), axis=1)
        for seen, sight in zip(seen_as, _SIGHTS.values(), strict=True)
    ]
    return np.minimum.reduce(per_sight)


def _candidates() -> np.ndarray:
    """Linear RGB of colours that are neither grey nor too light or dark to stand on a white or a black page."""
    grid = np.stack(np.meshgrid(*[np.linspace(0.06, 0.96, 15)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    linear = _linear(grid)
    lab = oklab(linear)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    return linear[(lab[:, 0] > 0.45) & (lab[:, 0] < 0.85) & (chroma > 0.06) & (chroma < 0.2)]


def _linear(rgb: np.ndarray) -> np.ndarray:
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def _gamma(linear: np.ndarray) -> np.ndarray:
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def _to_rgb(color: str) -> np.ndarray:
    return np.array([int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)])


def _to_hex(rgb: np.ndarray) -> str:
    return "#" + "".join(f"{round(float(channel) * 255):02x}" for channel in np.clip(rgb, 0, 1))


def luminance(color: str) -> float:
    """Relative luminance of `#rrggbb` (WCAG 2.2): 0 black, 1 white. Below about 0.18 white text reads better on it."""
    return float(_linear(_to_rgb(color)) @ np.array([0.2126, 0.7152, 0.0722]))
