"""One visual language: the colours and type of the pages and of the charts, light and dark."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from app.palette import scale

if TYPE_CHECKING:
    import plotly.graph_objects as go

FONT = "'Source Sans', 'Source Sans 3', 'Source Sans Pro', system-ui, sans-serif"  # comes with Streamlit: no network

COLORS: dict[str, dict[str, str]] = {
    "light": {
        "background": "#ffffff",
        "surface": "#f5f7fa",
        "ink": "#1b2330",
        "quiet": "#5a6675",
        "line": "#dfe4ea",
        "accent": "#0b5fa5",
        "second": "#b04d08",
        "good": "#18794e",
        "bad": "#b42318",
    },
    "dark": {
        "background": "#10141b",
        "surface": "#181e28",
        "ink": "#e7ebf1",
        "quiet": "#9aa7b8",
        "line": "#2c3543",
        "accent": "#6cb4f5",
        "second": "#f2a65a",
        "good": "#5cc99a",
        "bad": "#ff8a7a",
    },
}


def streamlit_options() -> dict[str, str]:
    """Streamlit's theme options for both themes, as `theme.…` settings for the command line.

    They travel as options because a config file is looked for where the command was started, which may be anywhere.
    """
    options = {
        "theme.baseRadius": "8px",
        "theme.headingFontWeights": "[650, 600, 600]",
        "theme.headingFontSizes": '["2rem", "1.35rem", "1.1rem"]',
        "theme.showSidebarBorder": "true",
    }
    for name, colors in COLORS.items():
        prefix = f"theme.{name}"
        options |= {
            f"{prefix}.primaryColor": colors["accent"],
            f"{prefix}.backgroundColor": colors["background"],
            f"{prefix}.secondaryBackgroundColor": colors["surface"],
            f"{prefix}.textColor": colors["ink"],
            f"{prefix}.borderColor": colors["line"],
            f"{prefix}.linkColor": colors["accent"],
        }
    return options


# Room for numbers and a title beside an axis. Plotly finds out by itself how much is needed (automargin), but draws
# every axis several times for it: half the time a chart takes. So only axes that carry names ask for it.
MARGIN = {"l": 72, "r": 16, "t": 12, "b": 56}


@lru_cache(maxsize=2)
def template(theme: str) -> go.layout.Template:
    """The Plotly template of a theme ("light" or "dark"): quiet axes, our scales, room for numbers beside the axes."""
    import plotly.graph_objects as go

    colors = COLORS[theme]
    axis = _axis(colors)
    return go.layout.Template(
        layout=go.Layout(
            font={"family": FONT, "size": 14, "color": colors["ink"]},
            paper_bgcolor=colors["background"],
            plot_bgcolor=colors["background"],
            colorway=[colors["accent"], colors["second"], colors["good"], colors["quiet"]],
            colorscale={"sequential": scale("sequential", theme), "diverging": scale("diverging", theme)},
            margin=MARGIN,
            xaxis=axis | {"ticklabelstandoff": 4},  # clear of the number at the foot of the other axis
            yaxis=axis,
            hoverlabel={
                "font": {"family": FONT, "size": 14, "color": colors["ink"]},
                "bgcolor": colors["surface"],
                "bordercolor": colors["line"],
                "align": "left",
                "namelength": -1,
            },
            legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 13}},
            modebar={"bgcolor": "rgba(0,0,0,0)", "color": colors["quiet"], "activecolor": colors["accent"]},
        )
    )


def _axis(colors: dict[str, str]) -> dict[str, Any]:
    return {
        "ticklabeloverflow": "allow",
        "gridcolor": colors["line"],
        "linecolor": colors["line"],
        "zeroline": False,
        "tickfont": {"size": 13, "color": colors["quiet"]},
        "title": {"font": {"size": 13, "color": colors["quiet"]}, "standoff": 10},
    }
