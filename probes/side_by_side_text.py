"""Side by side as text for people."""

from __future__ import annotations

from collections.abc import Iterator

from probes.side_by_side import ExpertChange, Side, SideBySide, TokenChange

MOST = 5


def render(found: SideBySide) -> str:
    """Both texts, where they part, what happened to probabilities, and which experts changed."""
    lines = [*_side("baseline", found.baseline), *_side("steered", found.steered), "", *_texts(found), ""]
    lines += [*_tokens(found), "", *_routing(found), *found.notes]
    if found.trace:
        lines += [
            "",
            f"saved in {found.trace}: baseline run {found.baseline_run_id}, steered run {found.steered_run_id}",
        ]
    lines += [f"note: {note}" for note in found.notes]
    return "\n".join(lines)


def _side(name: str, side: Side) -> Iterator[str]:
    end = "" if side.finished else ", cut off"
    yield f"{name} ({side.length} tokens{end})"
    yield from (f"  {line}" for line in side.text.splitlines() or [""])


def _texts(found: SideBySide) -> Iterator[str]:
    if not found.differences:
        yield "the texts are the same"
        return
    yield f"the texts differ in {len(found.differences)} places, from token {found.differences[0].baseline_span[0]} on"
    for one in found.differences[:MOST]:
        yield f"  {one.op:<8} {one.baseline!r} -> {one.steered!r}"
    if len(found.differences) > MOST:
        yield f"  … and {len(found.differences) - MOST} more"


def _tokens(found: SideBySide) -> Iterator[str]:
    yield "the same tokens, read by both (KL and ln p in nats)"
    for name, generated in (("prompt", False), ("baseline's text", True)):
        kl, change = found.mean_kl(generated), found.logprob_change(generated)
        if kl is not None and change is not None:
            yield f"  {name:<15}  mean KL {kl:.4f} per token; ln p of it changes by {change:+.3f}"
    known = [token for token in found.tokens if token.kl is not None]
    worst = sorted(known, key=lambda token: -(token.kl or 0))[:MOST]
    yield from (_token(token) for token in worst if token.kl and token.kl > 1e-3)


def _token(token: TokenChange) -> str:
    where = "written" if token.generated else "prompt"
    instead = ""
    if token.predicted != token.steered_predicted:
        instead = f"; most likely {token.predicted!r} -> {token.steered_predicted!r}"
    said = f"{where} token {token.position} {token.token!r}"
    return f"  {said:<28} KL {token.kl:.4f}; ln p {token.logprob:.3f} -> {token.steered_logprob:.3f}{instead}"


def _routing(found: SideBySide) -> Iterator[str]:
    yield f"{100 * found.changed_share:.1f} % of (token, layer) went to another set of experts"
    for layer in found.layers:
        yield f"  layer {layer.layer:<3} {100 * layer.share:5.1f} % of {layer.n_tokens} tokens"
    lost = [one for one in found.experts if one.change < 0][:MOST]
    gained = [one for one in reversed(found.experts) if one.change > 0][:MOST]
    for name, some in (("lost most", lost), ("gained most", gained)):
        if some:
            yield f"  {name}: {', '.join(map(_expert, some))}"


def _expert(one: ExpertChange) -> str:
    return f"{one.layer}.{one.expert} ({one.baseline} -> {one.steered})"
