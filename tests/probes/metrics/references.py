"""The metrics written a second time, slowly and token by token, straight from their definitions.

Each takes a case of cases.py (with `experts` [T, L, k] and so on) and gives {row key: {column: value}}.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from itertools import pairwise
from typing import Any

import numpy as np

from tests.probes.metrics.cases import Case

NAN = float("nan")
Rows = dict[Any, dict[str, Any]]


def tokens(case: Case, layer: int) -> list[int]:
    """Positions with routing in the layer."""
    return [t for t in range(len(case["experts"])) if case["experts"][t, layer, 0] >= 0]


def sequences(case: Case) -> list[list[int]]:
    found: dict[Any, list[int]] = {}
    for t, s in enumerate(case["sequence_id"].tolist()):
        found.setdefault(s, []).append(t)
    return list(found.values())


def layers(case: Case) -> list[tuple[int, int]]:
    return list(enumerate(case["layers"].tolist()))


def ratio(a: float, b: float) -> float:
    return a / b if b else NAN


def npmi_value(n_xy: int, n_x: int, n_y: int, n: int) -> float:
    if n_x == 0 or n_y == 0:
        return NAN
    if n_xy == 0:
        return -1.0
    if n_xy == n:
        return 1.0
    return math.log2((n_xy / n) / ((n_x / n) * (n_y / n))) / -math.log2(n_xy / n)


def load(case: Case) -> Rows:
    rows = {}
    for i, layer in layers(case):
        c = Counter(e for t in tokens(case, i) for e in case["experts"][t, i].tolist())
        for e in range(case["num_experts"]):
            rows[layer, e] = {"count": c[e], "share": ratio(c[e], sum(c.values())), "n_tokens": len(tokens(case, i))}
    return rows


def load_summary(case: Case) -> Rows:
    rows = {}
    for i, layer in layers(case):
        c = Counter(e for t in tokens(case, i) for e in case["experts"][t, i].tolist())
        x = np.array([c[e] for e in range(case["num_experts"])], float)
        f, p = x / x.sum(), np.mean([softmax(case["logits"][t, i]) for t in tokens(case, i)], axis=0)
        rows[layer,] = {
            "cv": np.std(x) / np.mean(x),
            "max_over_mean": x.max() / x.mean(),
            "gini": np.abs(x[:, None] - x[None]).sum() / (2 * len(x) ** 2 * x.mean()),
            "entropy_normalized": -sum(q * math.log(q) for q in f if q) / math.log(len(x)),
            "dead_experts": int((x == 0).sum()),
            "balance_loss": len(x) * float((f * p).sum()),
        }
    return rows


def softmax(z: np.ndarray) -> np.ndarray:
    return np.exp(z - z.max()) / np.exp(z - z.max()).sum()


def routing_entropy(case: Case) -> Rows:
    rows, size = {}, case["num_experts"]
    for i, layer in layers(case):
        h, margins = [], []
        for t in tokens(case, i):
            p, chosen = softmax(case["logits"][t, i]), set(case["experts"][t, i].tolist())
            h.append(-sum(q * math.log(q) for q in p if q))
            margins.append(min(p[list(chosen)]) - max(p[e] for e in range(size) if e not in chosen))
        rows[layer,] = {
            "entropy_mean": np.mean(h),
            "entropy_std": np.std(h),
            "normalized_mean": np.mean(h) / math.log(size),
            "effective_experts": math.exp(np.mean(h)),
            "margin_mean": np.mean(margins),
            "uncertain_share": np.mean([x >= 0.77 * math.log(size) for x in h]),
            "n_tokens": len(h),
        }
    return rows


def top_p_experts(case: Case) -> Rows:
    rows = {}
    for i, layer in layers(case):
        for p in (0.3, 0.9):
            needed = []
            for t in tokens(case, i):
                total, n = 0.0, 0
                for q in sorted(softmax(case["logits"][t, i]), reverse=True):
                    total, n = total + q, n + 1
                    if total > p:
                        break
                needed.append(n)
            c = Counter(needed)
            histogram = [c[n + 1] for n in range(case["num_experts"])]
            rows[layer, p] = {"mean": np.mean(needed), "histogram": histogram, "n_tokens": len(needed)}
    return rows


def unchosen_mass(case: Case) -> Rows:
    rows = {}
    for i, layer in layers(case):
        left = [1 - softmax(case["logits"][t, i])[case["experts"][t, i]].sum() for t in tokens(case, i)]
        rows[layer,] = {"mean": np.mean(left), "p95": np.quantile(left, 0.95)}
    return rows


def npmi_of(case: Case, target_of: list[Any]) -> Rows:
    rows = {}
    for i, layer in layers(case):
        at = tokens(case, i)
        for x in {x for x in target_of if x is not None}:
            if not any(target_of[t] == x for t in at) and isinstance(x, str) and x.startswith("t"):
                continue
            for e in range(case["num_experts"]):
                mine = [t for t in at if target_of[t] == x]
                uses = [t for t in at if e in case["experts"][t, i]]
                both = [t for t in mine if e in case["experts"][t, i]]
                counts = (len(both), len(mine), len(uses), len(at))
                named = dict(zip(("n_xy", "n_x", "n_y", "n_tokens"), counts, strict=True))
                rows[layer, e, x] = {"npmi": npmi_value(*counts), **named}
    return rows


def npmi(case: Case) -> Rows:
    return npmi_of(case, case["label"].tolist())


def npmi_token(case: Case) -> Rows:
    return npmi_of(case, case["token"].tolist())


def domain_specialization(case: Case) -> Rows:
    rows = {}
    k, size = case["experts"].shape[2], case["num_experts"]
    for i, layer in layers(case):
        for label in {x for x in case["label"] if x is not None}:
            at = [t for t in tokens(case, i) if case["label"][t] == label]
            for e in range(size):
                n = sum(e in case["experts"][t, i] for t in at)
                rows[layer, e, label] = {"share": ratio(n, len(at)), "uniform": k / size, "n_tokens": len(at)}
    return rows


def domain_specialization_summary(case: Case) -> Rows:
    shares: dict[Any, list[float]] = defaultdict(list)
    for (layer, e, _), row in domain_specialization(case).items():
        shares[layer, e].extend([row["share"]] if row["share"] > 1e-5 else [])
    rows = {}
    for key in {(layer, e) for layer, e, _ in domain_specialization(case)}:
        s = shares[key]
        rows[key] = {"cv": np.std(s, ddof=1) / np.mean(s) if len(s) > 1 else NAN}
    return rows


def vocabulary(case: Case, kind: str, top: int, by_expert: bool, min_count: int = 1) -> Rows:
    rows, k = {}, case["experts"].shape[2]
    following = {a: b for s in sequences(case) for a, b in pairwise(s)}
    for i, layer in layers(case):
        seen: dict[int, Counter[int]] = defaultdict(Counter)
        total: Counter[int] = Counter()
        for t in tokens(case, i):
            if kind == "next" and t not in following:
                continue
            v = {"input": case["token_id"][t], "predicted": case["predicted_id"][t]}.get(kind)
            v = int(case["token_id"][following[t]]) if kind == "next" else int(v)
            total[v] += 1
            seen[v].update(case["experts"][t, i, : k if top == 0 else top].tolist())
        best = {v: max(range(case["num_experts"]), key=lambda e, v=v: (seen[v][e], -e)) for v in total}
        p = {v: seen[v][best[v]] / total[v] for v in total if total[v] >= min_count}
        if not by_expert:
            rows[layer,] = {"value": np.mean(list(p.values())) if p else NAN, "n_vocabulary": len(p)}
            continue
        for e in range(case["num_experts"]):
            mine = [p[v] for v in p if best[v] == e]
            rows[layer, e] = {"value": np.mean(mine) if mine else NAN, "n_vocabulary": len(mine)}
    return rows


def risk_difference(case: Case, equal: bool = False) -> Rows:
    rows = {}
    for i, layer in layers(case):
        a, b = ([t for t in tokens(case, i) if case["label"][t] == x] for x in ("a", "b"))
        if equal:
            n = min(len(a), len(b))
            a, b = a[:n], b[:n]
        for e in range(case["num_experts"]):
            a1, a2 = (sum(e in case["experts"][t, i] for t in at) for at in (a, b))
            counts = {"a1": a1, "d1": len(a) - a1, "a2": a2, "d2": len(b) - a2}
            rows[layer, e] = {"rd": ratio(a1, len(a)) - ratio(a2, len(b)), **counts}
    return rows


def srp(case: Case, m: int) -> Rows:
    f: dict[Any, list[int]] = defaultdict(list)
    windows: Counter[Any] = Counter()
    for i, layer in layers(case):
        for sequence in sequences(case):
            at = [t for t in sequence if case["experts"][t, i, 0] >= 0]
            for start in range(len(at) - m + 1):
                windows[layer] += 1
                c = Counter(e for t in at[start : start + m] for e in case["experts"][t, i].tolist())
                for e in range(case["num_experts"]):
                    for group in (("expert", layer, e), ("layer", layer, None), ("model", None, None)):
                        f[group].append(c[e])
    rows = {}
    for i, layer in layers(case):
        del i
        for e in range(case["num_experts"]):
            rows["expert", layer, e] = srp_of(f["expert", layer, e], m) | {"n_windows": windows[layer]}
        rows["layer", layer, None] = srp_of(f["layer", layer, None], m) | {"n_windows": windows[layer]}
    rows["model", None, None] = srp_of(f["model", None, None], m)
    return rows


def srp_of(f: list[int], m: int) -> dict[str, float]:
    if not f:
        return {"srp": NAN, "cache_ratio": NAN, "activation_ratio": NAN}
    a, best = sum(f), None
    for j in range(m + 1):
        tp, p = sum(x for x in f if x >= j), m * sum(x >= j for x in f)
        score = 2 * tp / max(p + a, 1)
        if best is None or score > best[0]:
            best = (score, p / a if a else 0.0)
    return {"srp": best[0], "cache_ratio": best[1], "activation_ratio": a / (m * len(f))}


def batches(case: Case, sequence: list[int], level: str, i: int) -> list[list[int]]:
    """Each token's experts in listed order: of one layer, or of all with the layer's offset."""
    found = []
    for t in sequence:
        rows = [(0, case["experts"][t, i])] if level == "layer" else list(enumerate(case["experts"][t]))
        found.append([int(e) + j * case["num_experts"] for j, ids in rows for e in ids if e >= 0])
    return [batch for batch in found if batch]


def cache(batches: list[list[int]], capacity: int, policy: str, m: int = 1) -> float:
    """One cache, played out literally."""
    inside: list[int] = []  # in order of insertion
    seen: list[int] = []
    used: dict[int, int] = {}
    often: Counter[int] = Counter()
    hits, clock = 0, 0
    slots = [x for batch in batches for x in batch]
    slot = 0
    for t, batch in enumerate(batches):
        for x in batch:
            if x in inside:
                hits += 1
            elif x not in seen:
                hits += len(seen) < capacity
            if x not in seen:
                seen.append(x)
        ahead = Counter(x for later in batches[t : t + m] for x in later)
        for x in batch:
            if x not in inside:
                if len(inside) == capacity:
                    rest = slots[slot + 1 :]
                    order = {
                        "online": lambda e, ahead=ahead: (ahead[e], used[e]),
                        "lru": lambda e: used[e],
                        "lfu": lambda e: (often[e], used[e]),
                        "belady": lambda e, rest=rest: (-rest.index(e) if e in rest else -(10**9), used[e]),
                        "fifo": lambda e: inside.index(e),
                        "lifo": lambda e: -inside.index(e),
                    }[policy]
                    inside.remove(min(inside, key=order))
                inside.append(x)
            clock += 1
            slot += 1
            used[x] = clock
            often[x] += 1
            ahead[x] -= 1
    return hits / len(slots)


def cache_rates(case: Case, policy: str, m: int = 1) -> Rows:
    rows = {}
    size, k = case["num_experts"], case["experts"].shape[2]
    groups = [("layer", i, layer, range(1, size + 1)) for i, layer in layers(case)]
    most = size * len(case["layers"])
    for level, i, layer, sizes in [*groups, ("model", 0, None, range(k, most + 1, k))]:
        per_sequence = [b for s in sequences(case) if (b := batches(case, s, level, i))]
        for c in sizes:
            rates = [cache(b, c, policy, m) for b in per_sequence]
            active = k * (1 if level == "layer" else len(case["layers"]))
            rate = np.mean(rates) if rates else NAN
            rows[level, layer, c] = {"rate": rate, "cache_ratio": c / active, "n_sequences": len(rates)}
    return rows


def sch_window(case: Case, m: int) -> Rows:
    rows = {}
    size, k = case["num_experts"], case["experts"].shape[2]
    groups = [("layer", i, layer, size, k) for i, layer in layers(case)]
    for level, i, layer, most, active in [*groups, ("model", 0, None, size * len(groups), k * len(groups))]:
        top: Counter[int] = Counter()
        windows = n = 0
        for sequence in sequences(case):
            b = batches(case, sequence, level, i)
            n += len(b) >= m
            for start in range(len(b) - m + 1):
                windows += 1
                c = sorted(Counter(x for batch in b[start : start + m] for x in batch).values(), reverse=True)
                for at in range(1, most + 1):
                    top[at] += sum(c[:at])
        for at in range(1, most + 1) if level == "layer" else range(k, most + 1, k):
            rows[level, layer, at] = {"rate": ratio(top[at], windows * m * active), "n_sequences": n}
    return rows


def coactivation(case: Case, adjacent: bool = False) -> Rows:
    rows = {}
    for i, layer in layers(case):
        at = [case["experts"][t, i].tolist() for t in tokens(case, i)]
        for a in range(case["num_experts"]):
            for b in range(case["num_experts"]):
                if a == b:
                    continue
                near = [abs(x.index(a) - x.index(b)) for x in at if a in x and b in x]
                n_ij = sum(d == 1 for d in near) if adjacent else len(near)
                n_i, n_j = sum(a in x for x in at), sum(b in x for x in at)
                rows[layer, a, b] = {
                    "n_ij": n_ij,
                    "conditional": ratio(n_ij, n_i),
                    "lift": ratio(n_ij * len(at), n_i * n_j),
                    "npmi": npmi_value(n_ij, n_i, n_j, len(at)),
                }
    return rows


def cross_layer(case: Case, every: bool) -> Rows:
    from sklearn.metrics import mutual_info_score, normalized_mutual_info_score

    rows = {}
    for (i, layer), (j, after) in pairwise(layers(case)):
        both = [t for t in tokens(case, i) if t in set(tokens(case, j))]
        take = slice(None) if every else slice(1)
        pairs = [(a, b) for t in both for a in case["experts"][t, i, take] for b in case["experts"][t, j, take]]
        if not pairs:
            rows[layer, after] = {"mi_bits": NAN, "nmi": NAN, "n_tokens": 0}
            continue
        a, b = zip(*pairs, strict=True)
        one = len(set(a)) == 1 and len(set(b)) == 1
        nmi = NAN if one else normalized_mutual_info_score(a, b)
        mi = mutual_info_score(a, b) / math.log(2)
        rows[layer, after] = {"mi_bits": mi, "nmi": nmi, "n_tokens": len(both), "cramers_v": cramers_v(a, b)}
    return rows


def cramers_v(a: Any, b: Any) -> float:
    from scipy.stats import contingency
    from scipy.stats.contingency import crosstab

    table = crosstab(a, b).count
    return NAN if min(table.shape) < 2 else float(contingency.association(table, method="cramer"))


def norm_vs_gate(case: Case) -> Rows:
    from scipy.stats import spearmanr

    rows, k = {}, case["experts"].shape[2]
    for i, layer in layers(case):
        norms = [case["output_norm"][t, i] for t in tokens(case, i)]
        own = [spearmanr(-np.arange(k), n).statistic for n in norms] if k > 1 else []
        rows[layer,] = {"spearman": np.mean(own) if own else NAN}
    return rows


def norm_vs_gate_all(case: Case) -> Rows:
    from scipy.stats import spearmanr

    rows = {}
    for i, layer in layers(case):
        pairs = [(case["logits"][t, i], case["expert_norm"][t, i]) for t in tokens(case, i)]
        rows[layer,] = {"spearman": np.mean([spearmanr(*pair).statistic for pair in pairs]), "n_tokens": len(pairs)}
    return rows


def dataset_distance(case: Case) -> Rows:
    from scipy.spatial.distance import cosine, jensenshannon

    rows = {}
    for i, layer in layers(case):
        p = {}
        for label in ("a", "b"):
            at = [t for t in tokens(case, i) if case["label"][t] == label]
            c = Counter(e for t in at for e in case["experts"][t, i].tolist())
            p[label] = np.array([ratio(c[e], sum(c.values())) for e in range(case["num_experts"])])
        a, b = p["a"], p["b"]
        known = not np.isnan([*a, *b]).any()
        rows["a", "b", layer] = {
            "l2": np.linalg.norm(a - b),
            "cosine_distance": cosine(a, b) if known else NAN,
            "js_bits": jensenshannon(a, b, base=2) ** 2 if known else NAN,
        }
    return rows


def expert_importance(case: Case) -> Rows:
    rows = {}
    for i, layer in layers(case):
        for e in range(case["num_experts"]):
            at = [(t, case["experts"][t, i].tolist().index(e)) for t in tokens(case, i) if e in case["experts"][t, i]]
            w = [case["weights"][t, i, r] for t, r in at]
            o = [case["output_norm"][t, i, r] for t, r in at]
            top = [case["output_absmax"][t, i, r] for t, r in at]
            products = [a * b for a, b in zip(w, o, strict=True)]
            values = {"frequency": len(at), "soft_frequency": sum(w), "ean": sum(o)}
            values |= {"ean_mean": ratio(sum(o), len(o)), "reap": ratio(sum(products), len(o))}
            turned = [max(1 - case["similarity"][t, i], 0) for t, _ in at]
            values["easy_ep"] = sum(a * b for a, b in zip(products, turned, strict=True))
            n = case["output_count"][i, e]
            variance = [m / (n - 1) if n > 1 else NAN for m in case["output_m2"][i, e]]
            values["mone_variance"] = math.sqrt(sum(v * v for v in variance))
            values["mone"] = math.sqrt(sum(variance)) * ratio(sum(w), len(tokens(case, i)))
            values["max_activation"] = max(top, default=NAN)
            for criterion, value in values.items():
                rows[layer, e, criterion] = {"importance": value}
    return rows


def super_experts(
    case: Case, depth: int, percentile: float = 99.5, kinds: tuple[str, ...] = ("routed", "shared")
) -> Rows:
    largest: dict[Any, tuple[float, int]] = {}
    inputs: dict[Any, float] = {}

    def see(key: Any, v: float, t: int, received: float) -> None:
        if key not in largest or v > largest[key][0]:
            largest[key] = (v, t)
        inputs[key] = max(received, inputs.get(key, 0))

    massive = {}
    for i, layer in layers(case):
        at = tokens(case, i)
        massive[layer] = max((case["hidden_absmax"][t, i] / case["hidden_absmedian"][t, i] for t in at), default=NAN)
        for t in at:
            for r, e in enumerate(case["experts"][t, i].tolist() if "routed" in kinds else ()):
                see((layer, "routed", e), case["output_absmax"][t, i, r], t, case["input_absmax"][t, i])
            if "shared" in kinds:
                see((layer, "shared", 0), case["shared_absmax"][t, i], t, case["shared_input_absmax"][t, i])
    scope = [v for (layer, *_), (v, _) in largest.items() if layer < round(0.75 * depth)]
    limit = max(np.percentile(scope, percentile), max(scope) // 10) if scope else NAN
    every = {(layer, "routed", e) for _, layer in layers(case) for e in range(case["num_experts"])}
    rows = {}
    for key in {*(every if "routed" in kinds else ()), *largest}:
        v, t = largest.get(key, (NAN, None))
        row = {"max_abs_output": v, "is_super": bool(v > limit and key[0] < round(0.75 * depth))}
        row |= {"max_abs_input": inputs.get(key, NAN), "massive_activation_ratio": massive[key[0]]}
        rows[key] = row | {"token": None if t is None else case["token"][t]}
    return rows


def capacity(case: Case, gamma: float, reroute: bool) -> Rows:
    rows = {}
    k, size = case["experts"].shape[2], case["num_experts"]
    for i, layer in layers(case):
        at = tokens(case, i)
        limit = math.ceil(gamma * k * len(at) / size)
        c = Counter(e for t in at for e in case["experts"][t, i].tolist())
        over = sum(max(c[e] - limit, 0) for e in range(size))
        placed: Counter[int] = Counter()
        for t in at:
            mine = set(case["experts"][t, i].tolist())
            for e in case["experts"][t, i].tolist():
                if placed[e] >= limit and reroute:
                    free = [x for x in range(size) if x not in mine and placed[x] < limit]
                    e = max(free, key=lambda x, t=t, i=i: case["logits"][t, i, x], default=None)
                if e is not None and placed[e] < limit:
                    placed[e] += 1
                    mine.add(e)
        rows[layer, gamma] = {
            "capacity": limit,
            "overflow_share": ratio(over, k * len(at)),
            "experts_over": sum(c[e] > limit for e in range(size)),
            "utilization_after": ratio(sum(placed.values()), size * limit),
            "dropped_share": 1 - ratio(sum(placed.values()), k * len(at)),
        }
    return rows


def capacity_lost(case: Case, gamma: float, drop: str) -> Rows:
    rows = {}
    for i, layer in layers(case):
        at = tokens(case, i)
        limit = math.ceil(gamma * case["experts"].shape[2] * len(at) / case["num_experts"])
        each: dict[int, list[float]] = defaultdict(list)
        for t in at:
            for e, w in zip(case["experts"][t, i].tolist(), case["weights"][t, i].astype(np.float32), strict=True):
                each[e].append(float(w))
        lost = 0.0
        for own in each.values():
            over = max(len(own) - limit, 0)
            ordered = sorted(own) if drop == "score" else own
            lost += sum(ordered[len(own) - over :] if drop == "last" else ordered[:over])
        rows[layer, gamma] = {"dropped_weight_share": ratio(lost, sum(sum(own) for own in each.values()))}
    return rows


def router_saturation(case: Case) -> Rows:
    rows = {}
    k = case["experts"].shape[2]
    for i, layer in layers(case):
        a = [case["experts"][t, i].tolist() for t in tokens(case, i)]
        b = [case["other_experts"][t, i].tolist() for t in tokens(case, i)]
        shared = [len(set(x) & set(y)) / k for x, y in zip(a, b, strict=True)]
        slots = [u != v for x, y in zip(a, b, strict=True) for u, v in zip(x, y, strict=True)]
        rows[layer,] = {
            "saturation": np.mean(shared),
            "change_rate": 1 - np.mean(shared),
            "slot_change": np.mean(slots),
        }
    return rows


def batch_invariance(case: Case) -> Rows:
    rows = {}
    for i, layer in layers(case):
        for sequence in sequences(case):
            for position, t in enumerate(sequence):
                lost = set(case["experts"][t, i].tolist()) - set(case["other_experts"][t, i].tolist())
                if t in tokens(case, i) and lost:
                    moved = np.abs(case["logits"][t, i] - case["other_logits"][t, i]).max()
                    row = {"changed": len(lost), "max_logit_difference": moved}
                    rows[int(case["sequence_id"][t]), layer, position] = row
    return rows


def representation_collapse(case: Case) -> Rows:
    rows = {}
    for i, layer in layers(case):
        x = np.array([case["router_input"][t, i] for t in tokens(case, i)])
        first = np.array([case["experts"][t, i, 0] for t in tokens(case, i)])
        width = x.shape[1]
        within, between = np.zeros((width, width)), np.zeros((width, width))
        for e in set(first.tolist()):
            mean = x[first == e].mean(axis=0)
            for v in x[first == e]:
                within += np.outer(v - mean, v - mean) / len(x)
                between += np.outer(mean - x.mean(axis=0), mean - x.mean(axis=0)) / len(x)
        rc = float(np.trace(within @ np.linalg.pinv(between, rcond=1e-12, hermitian=True)))
        rc = NAN if len(set(first.tolist())) < 2 else rc
        rows[(layer,)] = {"rc": rc, "within": np.trace(within), "between": np.trace(between)}
    return rows


def expert_clusters(case: Case, clusters: int) -> Rows:
    rows: Rows = {}
    for i, layer in layers(case):
        mean = case["output_mean"][i]
        known = [e for e in range(case["num_experts"]) if case["output_count"][i, e]]
        groups = [[e] for e in known]
        while len(groups) > clusters:
            pairs = [(a, b) for a in range(len(groups)) for b in range(a)]
            apart = [np.mean([math.dist(mean[p], mean[q]) for p in groups[a] for q in groups[b]]) for a, b in pairs]
            a, b = pairs[int(np.argmin(apart))]
            groups[b] += groups.pop(a)
        c = Counter(e for t in tokens(case, i) for e in case["experts"][t, i].tolist())
        for e in range(case["num_experts"]):
            rows[layer, e] = {"cluster": NAN, "is_dominant": False}
        for group in groups:
            best = max(group, key=lambda e: (c[e], np.linalg.norm(mean[e])))
            rows |= {(layer, e): {"cluster": best, "is_dominant": e == best} for e in group}
    return rows


def expert_similarity(case: Case) -> Rows:
    rows = {}
    for i, layer in layers(case):
        outputs = [m if n else m * NAN for m, n in zip(case["output_mean"][i], case["output_count"][i], strict=True)]
        router, neurons = case["router_weight"][i], case["expert_weight"][i]
        for a in range(case["num_experts"]):
            for b in set(range(case["num_experts"])) - {a}:
                orders = itertools.permutations(range(neurons.shape[1]))
                best = max(_cosine(neurons[a].ravel(), neurons[b][list(order)].ravel()) for order in orders)
                values = {"outputs": _cosine(outputs[a], outputs[b]), "router": _cosine(router[a], router[b])}
                values |= {"weights": _cosine(neurons[a].ravel(), neurons[b].ravel()), "matched": best}
                rows |= {(layer, a, b, kind): {"similarity": v} for kind, v in values.items()}
    return rows


def _cosine(a: Any, b: Any) -> float:
    return float(np.dot(a, b) / math.sqrt(np.dot(a, a) * np.dot(b, b)))


def batch_load(case: Case, size: int, gammas: tuple[float, ...], devices: int) -> Rows:
    """Windows of a sequence and whole sequences, batch by batch; the drawn kinds have tests of their own."""
    rows = {}
    experts = case["num_experts"]
    for i, layer in layers(case):
        routed = [[t for t in s if (case["experts"][t, :, 0] >= 0).any()] for s in sequences(case)]
        windows = [s[a : a + size] for s in routed for a in range(0, len(s) - size + 1, size)]
        joined = [t for s in routed for t in s]
        for name, batches in (
            (f"{size} consecutive tokens of a sequence", windows),
            (
                f"{size} consecutive tokens, sequences one after the other",
                [joined[a : a + size] for a in range(0, len(joined) - size + 1, size)],
            ),
            ("one sequence's prefill", [s for s in routed if s]),
        ):
            figures: dict[str, list[float]] = defaultdict(list)
            for batch in batches:
                mine = [case["experts"][t, i].tolist() for t in batch if case["experts"][t, i, 0] >= 0]
                if not mine:
                    continue
                load = [sum(e in token for token in mine) for e in range(experts)]
                figures["max_over_mean"].append(max(load) / (sum(load) / experts))
                there = [sum(load[e] for e in range(experts) if e * devices // experts == d) for d in range(devices)]
                figures["device_max_over_mean"].append(max(there) / (sum(there) / devices))
                for gamma in gammas:
                    limit = math.ceil(gamma * case["experts"].shape[2] * len(mine) / experts)
                    figures[f"over {gamma}"].append(sum(max(c - limit, 0) for c in load) / sum(load))
            for gamma in gammas:
                row = {"n_batches": len(figures["max_over_mean"])}
                named = {"max_over_mean": "max_over_mean", "device_max_over_mean": "device_max_over_mean"}
                for column, key in {**named, "overflow_share": f"over {gamma}"}.items():
                    values = figures[key]
                    row[column] = sum(values) / len(values) if values else NAN
                    row[f"{column}_p95"] = float(np.quantile(values, 0.95)) if values else NAN
                rows[name, layer, gamma] = row
    return rows
