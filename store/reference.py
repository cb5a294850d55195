"""docs/sql.md, from the comments in the schema and the examples below: `python -m store.reference > docs/sql.md`."""

from __future__ import annotations

import sys
from typing import Any

from store import database

INTRO = """# The trace in SQL

<!-- Made by `python -m store.reference > docs/sql.md` from the comments in store/schema.sql; a test compares them. -->

A trace is one DuckDB file (or a folder of Parquet shards with a manifest). These views are its public interface:

```sh
probe sql trace.duckdb "SELECT label, count(*) AS n FROM sequences GROUP BY ALL"
```

`probe sql` runs any single SELECT, WITH, EXPLAIN, DESCRIBE or SUMMARIZE over the views, in a process of its own with
limits on memory and time; it reads nothing outside the trace and changes nothing. The same file opens in the DuckDB
shell and in `duckdb.connect(path, read_only=True)`; close it again soon while a recording writes to it.

Rows of different runs stand in one view: say which `run_id` you mean where a trace holds more than one. Arrays are in
descending weight order, NULL means unknown or not recorded, and `layer` is the model's own index. `expert_stats`,
`layer_stats` and `coactivation` are kept while recording and answer in milliseconds however long the trace is; they are
counts and sums, so add them up first and divide last.
"""

ORDER = (
    *("runs", "layers", "sequences", "tokens", "routing", "assignments", "router_logits"),
    *("expert_stats", "layer_stats", "coactivation", "output_vectors", "expert_outputs"),
    *("hidden", "shared_outputs", "expert_norms", "router_inputs", "results", "result_columns", "result_rows"),
)

# (what it answers, the query)
EXAMPLES = (
    (
        "What is in the trace?",
        "SELECT run_id, model, status, n_sequences, n_tokens, num_experts, top_k FROM runs ORDER BY run_id",
    ),
    (
        "How much of each layer's routing is there, and how much of it with logits?",
        "SELECT layer, sum(n_tokens) AS n_tokens, sum(n_missing) AS n_missing, sum(n_logits) AS n_logits\n"
        "FROM layer_stats WHERE run_id = 1 GROUP BY layer ORDER BY layer",
    ),
    (
        "Load: each expert's share of its layer's assignments, the busiest first.",
        "SELECT layer, expert, sum(n_tokens) AS n,\n"
        "    sum(n_tokens) / sum(sum(n_tokens)) OVER (PARTITION BY layer) AS share\n"
        "FROM expert_stats WHERE run_id = 1 GROUP BY layer, expert ORDER BY share DESC LIMIT 20",
    ),
    (
        "Experts that no token chose.",
        "SELECT layer, expert FROM expert_stats WHERE run_id = 1\n"
        "GROUP BY layer, expert HAVING sum(n_tokens) = 0 ORDER BY layer, expert",
    ),
    (
        "Straggler factor: the busiest expert's load over the mean, all tokens of the run as one batch.",
        "SELECT layer, max(n) / avg(n) AS max_over_mean FROM (\n"
        "    SELECT layer, expert, sum(n_tokens) AS n FROM expert_stats WHERE run_id = 1 GROUP BY layer, expert\n"
        ") GROUP BY layer ORDER BY max_over_mean DESC",
    ),
    (
        "Which experts prefer a label? Share of the label's tokens that chose the expert, against the share overall.",
        "SELECT layer, expert, label, n_tokens / n_group_tokens AS share,\n"
        "    sum(n_tokens) OVER e / sum(n_group_tokens) OVER e AS overall\n"
        "FROM expert_stats WHERE run_id = 1 WINDOW e AS (PARTITION BY layer, expert)\n"
        "ORDER BY share - overall DESC LIMIT 20",
    ),
    (
        "Mean routing entropy per layer and label, nats.",
        "SELECT layer, label, sum(sum_entropy) / sum(n_entropy) AS entropy_mean, sum(n_entropy) AS n\n"
        "FROM layer_stats WHERE run_id = 1 GROUP BY ALL ORDER BY ALL",
    ),
    (
        "The tokens a layer was least sure about.",
        "SELECT r.sequence_id, r.position, t.token, r.entropy, r.experts FROM routing r\n"
        "JOIN tokens t USING (run_id, sequence_id, position)\n"
        "WHERE run_id = 1 AND layer = (SELECT max(layer) FROM layers) AND entropy IS NOT NULL\n"
        "ORDER BY entropy DESC LIMIT 20",
    ),
    (
        "One sequence, token by token, through the first layer.",
        "SELECT t.position, t.token, r.experts, r.weights, r.missing_reason FROM tokens t\n"
        "JOIN routing r USING (run_id, sequence_id, position)\n"
        "WHERE run_id = 1 AND sequence_id = 0 AND layer = (SELECT min(layer) FROM layers) ORDER BY t.position",
    ),
    (
        "The tokens that go to one expert most.",
        "SELECT t.token, count(*) AS n, avg(a.weight) AS mean_weight FROM assignments a\n"
        "JOIN tokens t USING (run_id, sequence_id, position)\n"
        "WHERE run_id = 1 AND layer = 1 AND expert = 3 GROUP BY t.token ORDER BY n DESC LIMIT 20",
    ),
    (
        "How probable were the experts that were chosen, and the ones that were not?",
        "SELECT layer, chosen, avg(probability) AS mean, count(*) AS n FROM router_logits\n"
        "WHERE run_id = 1 AND sequence_id = 0 GROUP BY ALL ORDER BY ALL",
    ),
    (
        "Pairs of experts chosen together more often than at random (lift). Random is k distinct experts of E, all "
        "equally busy: k(k − 1) / (E(E − 1)). `probe analyze coactivation` takes the loads as they are.",
        "WITH pairs AS (SELECT layer, expert, other, n_tokens AS n FROM coactivation WHERE run_id = 1),\n"
        "alone AS (SELECT layer, expert, n FROM pairs WHERE expert = other),\n"
        "total AS (SELECT layer, sum(n_tokens) AS t FROM layer_stats WHERE run_id = 1 GROUP BY layer)\n"
        "SELECT p.layer, p.expert, p.other, p.n, p.n * t.t / (a.n * b.n)\n"
        "    * l.top_k * (l.num_experts - 1) / (l.num_experts * (l.top_k - 1)) AS lift FROM pairs p\n"
        "JOIN alone a ON a.layer = p.layer AND a.expert = p.expert\n"
        "JOIN alone b ON b.layer = p.layer AND b.expert = p.other\n"
        "JOIN total t ON t.layer = p.layer JOIN layers l ON l.run_id = 1 AND l.layer = p.layer\n"
        "WHERE p.expert < p.other AND p.n > 0 AND l.top_k > 1 ORDER BY lift DESC LIMIT 20",
    ),
    (
        "Where an expert's largest output came from (super experts).",
        "SELECT s.layer, s.expert, s.max_abs_output, s.max_abs_input, t.token, t.position FROM expert_stats s\n"
        "JOIN tokens t ON t.run_id = s.run_id AND t.sequence_id = s.max_output_sequence_id\n"
        "    AND t.position = s.max_output_position\n"
        "WHERE s.run_id = 1 ORDER BY s.max_abs_output DESC LIMIT 10",
    ),
    (
        "How far two runs over the same tokens agree: share of slots whose expert both chose.",
        "SELECT a.layer, sum(len(list_intersect(a.experts, b.experts))) / sum(len(a.experts)) AS saturation\n"
        "FROM routing a JOIN routing b USING (sequence_id, position, layer)\n"
        "WHERE a.run_id = 1 AND b.run_id = 2 GROUP BY a.layer ORDER BY a.layer",
    ),
    (
        "A saved table (probe analyze npmi trace.duckdb --save), as columns again.",
        "SELECT (data->>'layer')::INT AS layer, (data->>'expert')::INT AS expert, data->>'target' AS target,\n"
        "    (data->>'npmi')::DOUBLE AS npmi FROM result_rows WHERE metric = 'npmi' ORDER BY npmi DESC LIMIT 10",
    ),
)
_VIEWS = (
    "SELECT view_name, comment FROM duckdb_views() "
    "WHERE database_name = 'trace' AND schema_name = 'main' AND NOT internal"
)
_COLUMNS = (
    "SELECT column_name, data_type, comment FROM duckdb_columns() "
    "WHERE database_name = 'trace' AND schema_name = 'main' AND table_name = ? ORDER BY column_index"
)


def views() -> dict[str, tuple[str, list[tuple[str, str, str]]]]:
    """View -> (comment, [(column, type, comment)]), as a new trace has them."""
    con = database.memory()
    try:
        con.execute(database.views_sql())
        comments = dict(con.execute(_VIEWS).fetchall())
        return {name: (comments[name], con.execute(_COLUMNS, [name]).fetchall()) for name in ORDER + _others(comments)}
    finally:
        con.close()


def _others(comments: dict[str, Any]) -> tuple[str, ...]:
    return tuple(sorted(set(comments) - set(ORDER)))


def sql_page() -> str:
    """The page docs/sql.md."""
    parts = [INTRO, "## Views\n"]
    for name, (comment, columns) in views().items():
        rows = [f"| `{column}` | {kind} | {_cell(text)} |" for column, kind, text in columns]
        parts.append("\n".join([f"### {name}", comment, "", "| column | type | |", "|---|---|---|", *rows, ""]))
    parts.append("## Questions\n")
    parts += [f"{title}\n\n```sql\n{query}\n```\n" for title, query in EXAMPLES]
    return "\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(sql_page())
