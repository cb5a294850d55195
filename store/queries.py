"""Every question the package itself asks of a trace, in one place."""

RUNS = "SELECT r.*, w.writer_pid, w.writer_host FROM runs r JOIN raw.runs w USING (run_id) ORDER BY run_id"
LAYERS = "SELECT * EXCLUDE (run_id) FROM layers WHERE run_id = ? ORDER BY layer"
LABELS = "SELECT label FROM raw.labels WHERE run_id = ? ORDER BY label_id"
SEQUENCES = "SELECT sequence_id, n_tokens, label_id FROM raw.sequences WHERE run_id = ? ORDER BY sequence_id"
TOKENS = (
    "SELECT sequence_id, position, token_id, predicted_id, phase, logprob, text FROM raw.tokens "
    "WHERE run_id = ? AND sequence_id BETWEEN ? AND ? {only} ORDER BY sequence_id, position"
)
# How many, and which: another file may have come under the same name.
WORDS = "SELECT count(*), bit_xor(hash(token_id, text)) FROM raw.vocabulary WHERE run_id = ?"
VOCABULARY = "SELECT token_id, text FROM raw.vocabulary WHERE run_id = ?"
ROUTING = (
    "SELECT sequence_id, position, layer, {columns} FROM raw.routing "
    "WHERE run_id = ? AND sequence_id BETWEEN ? AND ? {only} AND list_contains(?, layer)"
)
ON_REQUEST = (
    "SELECT sequence_id, position, layer, {columns} FROM raw.{table} "
    "WHERE run_id = ? AND sequence_id BETWEEN ? AND ? {only} AND list_contains(?, layer)"
)
BETWEEN = "SELECT count(*) FROM raw.sequences WHERE run_id = ? AND sequence_id BETWEEN ? AND ?"
# Where others lie between the sequences wanted: a join that filters while it scans, so that their rows are not decoded.
ONLY = "AND sequence_id IN (SELECT unnest(?::INTEGER[]))"
DRAWN = (
    "SELECT sequence_id, n_tokens FROM (SELECT sequence_id, n_tokens, "
    "sum(n_tokens) OVER (ORDER BY hash(sequence_id), sequence_id) AS so_far FROM raw.sequences "
    "WHERE run_id = ? AND n_tokens > 0) WHERE so_far <= ? OR so_far = n_tokens ORDER BY sequence_id"
)
AGGREGATES = "SELECT layer, label_id, {columns} FROM raw.aggregates WHERE run_id = ?"
COACTIVATION = "SELECT layer, expert, together FROM raw.coactivation WHERE run_id = ?"
