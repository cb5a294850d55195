"""One token through all layers as a table: its experts in rank order, their weights and output norms."""

from __future__ import annotations

from html import escape
from typing import Any

import pandas as pd

from app.components.coloring import chosen
from app.components.token_text import pieces
from app.formats import NOTHING, count, number
from app.palette import expert_color


def token_heading(token: Any, total: int) -> str:
    """The chosen token in large, and what is known of it. Escaped HTML."""
    nameless = f"[{token['token_id']}]" if _known(token["token_id"]) else NOTHING
    text = token["token"] if isinstance(token["token"], str) else nameless
    spelled = "".join(
        f'<span class="rw-mark">{escape(piece.text)}</span>' if piece.kind == "mark" else escape(piece.text)
        for piece in pieces(text)
    )
    known = [f"position {count(token['position'])} (0 to {count(total - 1)})", f"token id {_whole(token['token_id'])}"]
    known += [str(token["phase"])] if isinstance(token["phase"], str) else []
    known += [f"log-probability {number(token['logprob'])} nats"] if _known(token["logprob"]) else []
    known += [f"predicted next id {_whole(token['predicted_id'])}"] if _known(token["predicted_id"]) else []
    return (
        f'<div class="rw-token"><bdi class="rw-token-text">{spelled}</bdi>'
        f'<span class="rw-token-facts">{escape(" · ".join(known))}</span></div>'
    )


def layers_table(through: pd.DataFrame) -> str:
    """Layer × rank: a chip per chosen expert with weight (bar) and output norm. Escaped HTML.

    `through`: layer, num_experts, experts, weights, output_norms, missing_reason; one row per layer.
    """
    ranks = max((len(chosen(row.experts)) for row in through.itertuples()), default=0)
    heavy = max((weight for row in through.itertuples() for weight in _numbers(row.weights)), default=0.0)
    head = "".join(f"<th>rank {rank + 1}</th>" for rank in range(ranks))
    body = "".join(f"<tr><th>{row.layer}</th>{_cells(row, ranks, heavy)}</tr>" for row in through.itertuples())
    caption = "The experts of this token by layer: number, weight, and the norm of what the expert put out."
    return (
        f'<div class="rw-through"><table><caption>{caption}</caption><thead><tr><th>layer</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def rows(through: pd.DataFrame) -> pd.DataFrame:
    """The same as rows: layer, rank, expert, weight, output_norm."""
    found = [
        (row.layer, rank + 1, expert, _at(row.weights, rank), _at(row.output_norms, rank))
        for row in through.itertuples()
        for rank, expert in enumerate(chosen(row.experts))
    ]
    return pd.DataFrame(found, columns=["layer", "rank", "expert", "weight", "output_norm"])


def _cells(row: Any, ranks: int, heavy: float) -> str:
    experts = chosen(row.experts)
    if not experts:
        reason = row.missing_reason if isinstance(row.missing_reason, str) else "not recorded"
        return f'<td class="rw-none" colspan="{max(ranks, 1)}">no routing: {escape(reason)}</td>'
    cells = [_chip(row, rank, expert, heavy) for rank, expert in enumerate(experts)]
    return "".join(f"<td>{cell}</td>" for cell in [*cells, *[""] * (ranks - len(cells))])


def _chip(row: Any, rank: int, expert: int, heavy: float) -> str:
    color = expert_color(expert, int(row.num_experts))
    weight, norm = _at(row.weights, rank), _at(row.output_norms, rank)
    share = 100 * weight / heavy if weight == weight and heavy > 0 else 0
    small = f'<span class="rw-norm">norm {number(norm)}</span>' if norm == norm else ""
    return (
        f'<span class="rw-chip"><i style="background:{color}"></i><b>{expert}</b>'
        f"<span>{number(weight) if weight == weight else NOTHING}</span></span>"
        f'<span class="rw-bar"><i style="width:{max(0.0, share):.1f}%;background:{color}"></i></span>{small}'
    )


def _numbers(values: Any) -> list[float]:
    return [float(value) for value in values if _known(value)] if hasattr(values, "__len__") else []


def _at(values: Any, rank: int) -> float:
    if not hasattr(values, "__len__") or rank >= len(values) or not _known(values[rank]):
        return float("nan")
    return float(values[rank])


def _known(value: Any) -> bool:
    return value is not None and value is not pd.NA and value == value


def _whole(value: Any) -> str:
    return str(int(value)) if _known(value) else NOTHING
