-- The trace, whole: what a new file gets. A change here goes with a numbered file in migrations/ that brings old files to
-- the same state (a test holds the two together). Tables live in the schema `raw` and may change; the views in `main` are
-- the public SQL interface, and their comments are its documentation (docs/sql.md is made from them).

CREATE SCHEMA raw;

CREATE TABLE raw.migrations (version INTEGER, name VARCHAR, applied_at TIMESTAMP);
COMMENT ON TABLE raw.migrations IS 'One row per migration this file has been through; the highest version is the schema''s.';
COMMENT ON COLUMN raw.migrations.version IS 'Number of the migration.';
COMMENT ON COLUMN raw.migrations.name IS 'Name of the migration''s file.';
COMMENT ON COLUMN raw.migrations.applied_at IS 'When, UTC.';

CREATE TABLE raw.runs (
    run_id INTEGER, name VARCHAR, created_at TIMESTAMP, model VARCHAR, revision VARCHAR, status VARCHAR,
    num_layers INTEGER, intervention VARCHAR, baseline_run_id INTEGER, provenance JSON, capture JSON,
    batches_done INTEGER, n_sequences BIGINT, n_tokens BIGINT,
    heartbeat TIMESTAMP, writer_pid INTEGER, writer_host VARCHAR, finished_at TIMESTAMP
);
COMMENT ON TABLE raw.runs IS 'One row per run, with the progress of its recording: written in the same transaction as the rows it counts.';
COMMENT ON COLUMN raw.runs.run_id IS 'Number of the run in this file, from 1.';
COMMENT ON COLUMN raw.runs.name IS 'Name given to the run.';
COMMENT ON COLUMN raw.runs.created_at IS 'When the recording began, UTC.';
COMMENT ON COLUMN raw.runs.model IS 'Model name or path.';
COMMENT ON COLUMN raw.runs.revision IS 'Revision or commit of the model.';
COMMENT ON COLUMN raw.runs.status IS 'recording, complete, interrupted or failed.';
COMMENT ON COLUMN raw.runs.num_layers IS 'All layers of the model, dense ones included.';
COMMENT ON COLUMN raw.runs.intervention IS 'The intervention that was active, as JSON; NULL for none.';
COMMENT ON COLUMN raw.runs.baseline_run_id IS 'The run this one is to be compared with.';
COMMENT ON COLUMN raw.runs.provenance IS 'Hashes, versions, device, seed, command line.';
COMMENT ON COLUMN raw.runs.capture IS 'What was asked for and kept.';
COMMENT ON COLUMN raw.runs.batches_done IS 'Batches committed so far; a resumed recording goes on from here.';
COMMENT ON COLUMN raw.runs.n_sequences IS 'Sequences committed so far.';
COMMENT ON COLUMN raw.runs.n_tokens IS 'Tokens committed so far.';
COMMENT ON COLUMN raw.runs.heartbeat IS 'Last commit of the writer, UTC.';
COMMENT ON COLUMN raw.runs.writer_pid IS 'Process that records, NULL when none does.';
COMMENT ON COLUMN raw.runs.writer_host IS 'Machine that process runs on.';
COMMENT ON COLUMN raw.runs.finished_at IS 'When the recording ended, UTC.';

CREATE TABLE raw.layers (
    run_id INTEGER, layer SMALLINT, module VARCHAR, is_moe BOOLEAN, num_experts INTEGER, top_k INTEGER,
    gating VARCHAR, shared_experts INTEGER, stream VARCHAR, logits_type VARCHAR, slots INTEGER
);
COMMENT ON TABLE raw.layers IS 'One row per run and layer that has a router.';
COMMENT ON COLUMN raw.layers.run_id IS 'The run.';
COMMENT ON COLUMN raw.layers.layer IS 'The model''s own layer index.';
COMMENT ON COLUMN raw.layers.module IS 'Dotted name of the router module.';
COMMENT ON COLUMN raw.layers.is_moe IS 'False for a dense layer listed for completeness.';
COMMENT ON COLUMN raw.layers.num_experts IS 'Routed experts that can be chosen.';
COMMENT ON COLUMN raw.layers.top_k IS 'Experts the router chooses per token.';
COMMENT ON COLUMN raw.layers.gating IS 'Kind of gating: softmax, sigmoid, ….';
COMMENT ON COLUMN raw.layers.shared_experts IS 'Experts every token passes through.';
COMMENT ON COLUMN raw.layers.stream IS 'mlp, attention, encoder: tells apart routers that share a layer.';
COMMENT ON COLUMN raw.layers.logits_type IS 'float32, float16 or bfloat16; NULL while no logits were kept.';
COMMENT ON COLUMN raw.layers.slots IS 'Most experts of a token in this run: not top_k where an intervention changes it.';

CREATE TABLE raw.labels (run_id INTEGER, label_id INTEGER, label VARCHAR);
COMMENT ON TABLE raw.labels IS 'The labels of a run''s sequences, numbered from 0 in order of appearance.';
COMMENT ON COLUMN raw.labels.run_id IS 'The run.';
COMMENT ON COLUMN raw.labels.label_id IS 'Number of the label; -1 elsewhere means no label.';
COMMENT ON COLUMN raw.labels.label IS 'The label.';

CREATE TABLE raw.sequences (
    run_id INTEGER, sequence_id INTEGER, prompt_id VARCHAR, label_id INTEGER, source VARCHAR, text VARCHAR,
    n_tokens INTEGER, metadata JSON
);
COMMENT ON TABLE raw.sequences IS 'One row per run and sequence.';
COMMENT ON COLUMN raw.sequences.run_id IS 'The run.';
COMMENT ON COLUMN raw.sequences.sequence_id IS 'Number of the sequence in its run.';
COMMENT ON COLUMN raw.sequences.prompt_id IS 'The id the prompts file gave it.';
COMMENT ON COLUMN raw.sequences.label_id IS 'Its label''s number, -1 for none.';
COMMENT ON COLUMN raw.sequences.source IS 'File or data set it came from.';
COMMENT ON COLUMN raw.sequences.text IS 'The text, where it was kept.';
COMMENT ON COLUMN raw.sequences.n_tokens IS 'Tokens recorded.';
COMMENT ON COLUMN raw.sequences.metadata IS 'What else the prompts file said.';

CREATE TABLE raw.vocabulary (run_id INTEGER, token_id INTEGER, text VARCHAR);
COMMENT ON TABLE raw.vocabulary IS 'The text of each token id met in a run, once.';
COMMENT ON COLUMN raw.vocabulary.run_id IS 'The run.';
COMMENT ON COLUMN raw.vocabulary.token_id IS 'The tokenizer''s id.';
COMMENT ON COLUMN raw.vocabulary.text IS 'Its text.';

CREATE TABLE raw.tokens (
    run_id INTEGER, sequence_id INTEGER, position INTEGER, token_id INTEGER, phase UTINYINT, logprob FLOAT,
    predicted_id INTEGER, text VARCHAR
);
COMMENT ON TABLE raw.tokens IS 'One row per run, sequence and position.';
COMMENT ON COLUMN raw.tokens.run_id IS 'The run.';
COMMENT ON COLUMN raw.tokens.sequence_id IS 'The sequence.';
COMMENT ON COLUMN raw.tokens.position IS 'Position in the sequence, padding not counted, from 0.';
COMMENT ON COLUMN raw.tokens.token_id IS 'The tokenizer''s id.';
COMMENT ON COLUMN raw.tokens.phase IS '0 prefill, 1 decode.';
COMMENT ON COLUMN raw.tokens.logprob IS 'Log-probability the model gave this token.';
COMMENT ON COLUMN raw.tokens.predicted_id IS 'The model''s argmax at this position.';
COMMENT ON COLUMN raw.tokens.text IS 'Only where it differs from the vocabulary''s text for the id.';

CREATE TABLE raw.routing (
    run_id INTEGER, sequence_id INTEGER, position INTEGER, layer SMALLINT,
    experts USMALLINT[], weights FLOAT[], output_norms FLOAT[], output_absmaxes FLOAT[], input_absmax FLOAT,
    entropy FLOAT, margin FLOAT, missing_reason VARCHAR,
    logits FLOAT[], logits_32 UBIGINT[], logits_16 UINTEGER[]
);
COMMENT ON TABLE raw.routing IS 'One row per token and layer; inside a commit sorted by layer, then sequence and position.';
COMMENT ON COLUMN raw.routing.run_id IS 'The run.';
COMMENT ON COLUMN raw.routing.sequence_id IS 'The sequence.';
COMMENT ON COLUMN raw.routing.position IS 'Position in the sequence.';
COMMENT ON COLUMN raw.routing.layer IS 'The model''s own layer index.';
COMMENT ON COLUMN raw.routing.experts IS 'Chosen experts, descending weight; NULL where there is none.';
COMMENT ON COLUMN raw.routing.weights IS 'Weights really used.';
COMMENT ON COLUMN raw.routing.output_norms IS 'L2 norm of each chosen expert''s output before weighting.';
COMMENT ON COLUMN raw.routing.output_absmaxes IS 'Largest absolute component of that output.';
COMMENT ON COLUMN raw.routing.input_absmax IS 'Largest absolute component of the experts'' input.';
COMMENT ON COLUMN raw.routing.entropy IS 'Entropy of the full softmax, nats.';
COMMENT ON COLUMN raw.routing.margin IS 'k-th chosen score minus best unchosen score.';
COMMENT ON COLUMN raw.routing.missing_reason IS 'Why there is no expert here; NULL where there is.';
COMMENT ON COLUMN raw.routing.logits IS 'float32 logits of fewer than 32 experts.';
COMMENT ON COLUMN raw.routing.logits_32 IS 'float32 logits of 32 experts or more, two in a word: see raw.float32_at.';
COMMENT ON COLUMN raw.routing.logits_16 IS 'bfloat16 or float16 logits (the layer''s logits_type says which), two in a word: see raw.bfloat16_at and raw.float16_at.';

CREATE TABLE raw.aggregates (
    run_id INTEGER, layer SMALLINT, label_id INTEGER,
    n_tokens BIGINT, n_missing BIGINT, n_logits BIGINT,
    n_entropy BIGINT, sum_entropy DOUBLE, sum_entropy_squared DOUBLE,
    n_margin BIGINT, sum_margin DOUBLE, sum_margin_squared DOUBLE,
    chosen BIGINT[], first_chosen BIGINT[], sum_weight DOUBLE[], sum_probability DOUBLE[],
    n_norm BIGINT[], sum_norm DOUBLE[], sum_weight_norm DOUBLE[],
    max_abs_output FLOAT[], max_output_sequence_id INTEGER[], max_output_position INTEGER[], max_abs_input FLOAT[]
);
COMMENT ON TABLE raw.aggregates IS 'Counts and sums kept while recording, one row per run, layer and label; arrays run over the experts.';
COMMENT ON COLUMN raw.aggregates.run_id IS 'The run.';
COMMENT ON COLUMN raw.aggregates.layer IS 'The layer.';
COMMENT ON COLUMN raw.aggregates.label_id IS 'The label''s number, -1 for sequences without one.';
COMMENT ON COLUMN raw.aggregates.n_tokens IS 'Tokens with routing.';
COMMENT ON COLUMN raw.aggregates.n_missing IS 'Tokens without.';
COMMENT ON COLUMN raw.aggregates.n_logits IS 'Tokens whose logits were kept.';
COMMENT ON COLUMN raw.aggregates.n_entropy IS 'Tokens whose entropy is known.';
COMMENT ON COLUMN raw.aggregates.sum_entropy IS 'Sum of their entropies, nats.';
COMMENT ON COLUMN raw.aggregates.sum_entropy_squared IS 'Sum of the squares.';
COMMENT ON COLUMN raw.aggregates.n_margin IS 'Tokens whose margin is known.';
COMMENT ON COLUMN raw.aggregates.sum_margin IS 'Sum of their margins.';
COMMENT ON COLUMN raw.aggregates.sum_margin_squared IS 'Sum of the squares.';
COMMENT ON COLUMN raw.aggregates.chosen IS 'Tokens that chose each expert.';
COMMENT ON COLUMN raw.aggregates.first_chosen IS 'Tokens that ranked it first.';
COMMENT ON COLUMN raw.aggregates.sum_weight IS 'Sum of its weights.';
COMMENT ON COLUMN raw.aggregates.sum_probability IS 'Sum of its router probabilities over the n_logits tokens.';
COMMENT ON COLUMN raw.aggregates.n_norm IS 'Choices whose output norm is known.';
COMMENT ON COLUMN raw.aggregates.sum_norm IS 'Sum of its output norms.';
COMMENT ON COLUMN raw.aggregates.sum_weight_norm IS 'Sum of weight times output norm.';
COMMENT ON COLUMN raw.aggregates.max_abs_output IS 'Largest absolute output component.';
COMMENT ON COLUMN raw.aggregates.max_output_sequence_id IS 'Sequence of the token that made it.';
COMMENT ON COLUMN raw.aggregates.max_output_position IS 'Position of that token.';
COMMENT ON COLUMN raw.aggregates.max_abs_input IS 'Largest absolute input component over the tokens that chose it.';

CREATE TABLE raw.coactivation (run_id INTEGER, layer SMALLINT, expert USMALLINT, together BIGINT[]);
COMMENT ON TABLE raw.coactivation IS 'How often each expert was chosen together with every other.';
COMMENT ON COLUMN raw.coactivation.run_id IS 'The run.';
COMMENT ON COLUMN raw.coactivation.layer IS 'The layer.';
COMMENT ON COLUMN raw.coactivation.expert IS 'The expert.';
COMMENT ON COLUMN raw.coactivation.together IS 'Tokens that chose both; its own place holds the tokens that chose it.';

CREATE TABLE raw.output_vectors (
    run_id INTEGER, sequence_id INTEGER, position INTEGER, layer SMALLINT, expert USMALLINT, vector FLOAT[]
);
COMMENT ON TABLE raw.output_vectors IS 'Output vectors of chosen experts, for the tokens where they were kept.';
COMMENT ON COLUMN raw.output_vectors.run_id IS 'The run.';
COMMENT ON COLUMN raw.output_vectors.sequence_id IS 'The sequence.';
COMMENT ON COLUMN raw.output_vectors.position IS 'The position.';
COMMENT ON COLUMN raw.output_vectors.layer IS 'The layer.';
COMMENT ON COLUMN raw.output_vectors.expert IS 'The expert.';
COMMENT ON COLUMN raw.output_vectors.vector IS 'Its output before weighting.';

CREATE TABLE raw.expert_outputs (
    run_id INTEGER, layer SMALLINT, expert USMALLINT, n_tokens BIGINT, mean FLOAT[], m2 FLOAT[]
);
COMMENT ON TABLE raw.expert_outputs IS 'Running moments of each expert''s output vectors.';
COMMENT ON COLUMN raw.expert_outputs.run_id IS 'The run.';
COMMENT ON COLUMN raw.expert_outputs.layer IS 'The layer.';
COMMENT ON COLUMN raw.expert_outputs.expert IS 'The expert.';
COMMENT ON COLUMN raw.expert_outputs.n_tokens IS 'Vectors seen.';
COMMENT ON COLUMN raw.expert_outputs.mean IS 'Their mean.';
COMMENT ON COLUMN raw.expert_outputs.m2 IS 'Sum of squared differences from the mean, per component.';

-- Logits in pairs: store/encode.py says when and why, store/bfloat16.py how a word of two bfloat16 is made.
CREATE MACRO raw.float32_at(words, i) AS
    ((words[(i >> 1) + 1] >> (32 * (i & 1))::UBIGINT) & 4294967295::UBIGINT)::UINTEGER::BIT::FLOAT;
COMMENT ON MACRO raw.float32_at IS 'The i-th float32 logit, from 0, exactly.';
CREATE MACRO raw.bfloat16_exponent(word, i) AS (
    (391::UINTEGER - ((((word >> (26 + 3 * i)::UINTEGER) & 7::UINTEGER) << 5::UINTEGER)
        | ((word >> (16 + 5 * i)::UINTEGER) & 31::UINTEGER))) & 255::UINTEGER
);
COMMENT ON MACRO raw.bfloat16_exponent IS 'Exponent bits of half i (0 or 1) of a word.';
CREATE MACRO raw.bfloat16_bits(word, i) AS (
    (((word >> (8 * i)::UINTEGER) & 1::UINTEGER) << 31::UINTEGER)
    | (raw.bfloat16_exponent(word, i) << 23::UINTEGER)
    | (((word >> (8 * i + 1)::UINTEGER) & 127::UINTEGER) << 16::UINTEGER)
)::UINTEGER;
COMMENT ON MACRO raw.bfloat16_bits IS 'Half i (0 or 1) of a word as the bits of the float32 of the same value.';
CREATE MACRO raw.bfloat16_at(words, i) AS raw.bfloat16_bits(words[(i >> 1) + 1], i & 1)::BIT::FLOAT;
COMMENT ON MACRO raw.bfloat16_at IS 'The i-th bfloat16 logit, from 0, exactly.';
CREATE MACRO raw.float16_value(half) AS CASE ((half >> 10::UINTEGER) & 31::UINTEGER)
    WHEN 0 THEN (1 - 2 * (half >> 15::UINTEGER)::INTEGER)::FLOAT * ((half & 1023::UINTEGER)::FLOAT * 5.9604644775390625e-8::FLOAT)
    WHEN 31 THEN (((half >> 15::UINTEGER) << 31::UINTEGER) | 2139095040::UINTEGER
        | ((half & 1023::UINTEGER) << 13::UINTEGER))::UINTEGER::BIT::FLOAT
    ELSE (((half >> 15::UINTEGER) << 31::UINTEGER)
        | (((half & 32767::UINTEGER) << 13::UINTEGER) + 939524096::UINTEGER))::UINTEGER::BIT::FLOAT
END;
COMMENT ON MACRO raw.float16_value IS 'The float32 of the same value as 16 bits of a float16.';
CREATE MACRO raw.float16_at(words, i) AS
    raw.float16_value((words[(i >> 1) + 1] >> (16 * (i & 1))::UINTEGER) & 65535::UINTEGER);
COMMENT ON MACRO raw.float16_at IS 'The i-th float16 logit, from 0, exactly.';

CREATE VIEW runs AS
SELECT r.run_id, r.name, r.created_at, r.model, r.revision, r.status, r.num_layers,
    (SELECT max(num_experts) FROM raw.layers l WHERE l.run_id = r.run_id) AS num_experts,
    (SELECT max(top_k) FROM raw.layers l WHERE l.run_id = r.run_id) AS top_k,
    r.n_sequences, r.n_tokens, r.intervention, r.baseline_run_id, r.provenance, r.capture, r.batches_done,
    r.heartbeat, r.finished_at
FROM raw.runs r;
COMMENT ON VIEW runs IS 'One row per run: what was recorded, from which model, how far.';
COMMENT ON COLUMN runs.run_id IS 'Number of the run in this file, from 1.';
COMMENT ON COLUMN runs.name IS 'Name given to the run.';
COMMENT ON COLUMN runs.created_at IS 'When the recording began, UTC.';
COMMENT ON COLUMN runs.model IS 'Model name or path.';
COMMENT ON COLUMN runs.revision IS 'Revision or commit of the model.';
COMMENT ON COLUMN runs.status IS 'recording, complete, interrupted or failed.';
COMMENT ON COLUMN runs.num_layers IS 'All layers of the model, dense ones included.';
COMMENT ON COLUMN runs.num_experts IS 'Routed experts per layer (the largest, where layers differ).';
COMMENT ON COLUMN runs.top_k IS 'Experts the router chooses per token (the largest, where layers differ).';
COMMENT ON COLUMN runs.n_sequences IS 'Sequences recorded.';
COMMENT ON COLUMN runs.n_tokens IS 'Tokens recorded.';
COMMENT ON COLUMN runs.intervention IS 'The intervention that was active, as JSON; NULL for none.';
COMMENT ON COLUMN runs.baseline_run_id IS 'The run this one is to be compared with.';
COMMENT ON COLUMN runs.provenance IS 'Hashes, versions, device, seed, command line (JSON).';
COMMENT ON COLUMN runs.capture IS 'What was asked for and kept (JSON).';
COMMENT ON COLUMN runs.batches_done IS 'Batches committed so far.';
COMMENT ON COLUMN runs.heartbeat IS 'Last commit of the writer, UTC.';
COMMENT ON COLUMN runs.finished_at IS 'When the recording ended, UTC.';

CREATE VIEW layers AS
SELECT run_id, layer, module, is_moe, num_experts, top_k, gating, shared_experts, stream, logits_type,
    coalesce(slots, top_k) AS slots
FROM raw.layers;
COMMENT ON VIEW layers IS 'One row per run and layer: where its router sits and how it chooses.';
COMMENT ON COLUMN layers.run_id IS 'The run.';
COMMENT ON COLUMN layers.layer IS 'The model''s own layer index (dense layers keep their numbers).';
COMMENT ON COLUMN layers.module IS 'Dotted name of the router module.';
COMMENT ON COLUMN layers.is_moe IS 'False for a dense layer listed for completeness.';
COMMENT ON COLUMN layers.num_experts IS 'Routed experts that can be chosen.';
COMMENT ON COLUMN layers.top_k IS 'Experts the router chooses per token.';
COMMENT ON COLUMN layers.gating IS 'Kind of gating: softmax, sigmoid, ….';
COMMENT ON COLUMN layers.shared_experts IS 'Experts every token passes through.';
COMMENT ON COLUMN layers.stream IS 'mlp, attention, encoder: tells apart routers that share a layer.';
COMMENT ON COLUMN layers.logits_type IS 'Precision the logits have: float32, float16, bfloat16; NULL where none were kept.';
COMMENT ON COLUMN layers.slots IS 'Most experts of a token in this run: not top_k where an intervention changes it.';

CREATE VIEW sequences AS
SELECT s.run_id, s.sequence_id, s.prompt_id, l.label, s.source, s.text, s.n_tokens, s.metadata
FROM raw.sequences s LEFT JOIN raw.labels l ON l.run_id = s.run_id AND l.label_id = s.label_id;
COMMENT ON VIEW sequences IS 'One row per run and sequence: a prompt, with what was generated after it.';
COMMENT ON COLUMN sequences.run_id IS 'The run.';
COMMENT ON COLUMN sequences.sequence_id IS 'Number of the sequence in its run.';
COMMENT ON COLUMN sequences.prompt_id IS 'The id the prompts file gave it.';
COMMENT ON COLUMN sequences.label IS 'Its label (a domain, a task); NULL for none.';
COMMENT ON COLUMN sequences.source IS 'File or data set it came from.';
COMMENT ON COLUMN sequences.text IS 'The text, where it was kept.';
COMMENT ON COLUMN sequences.n_tokens IS 'Tokens recorded.';
COMMENT ON COLUMN sequences.metadata IS 'What else the prompts file said (JSON).';

CREATE VIEW tokens AS
SELECT t.run_id, t.sequence_id, t.position, t.token_id, coalesce(t.text, v.text) AS token,
    CASE t.phase WHEN 0 THEN 'prefill' WHEN 1 THEN 'decode' END AS phase, t.logprob, t.predicted_id
FROM raw.tokens t LEFT JOIN raw.vocabulary v ON v.run_id = t.run_id AND v.token_id = t.token_id;
COMMENT ON VIEW tokens IS 'One row per run, sequence and position: the token that was read there.';
COMMENT ON COLUMN tokens.run_id IS 'The run.';
COMMENT ON COLUMN tokens.sequence_id IS 'The sequence.';
COMMENT ON COLUMN tokens.position IS 'Position in the sequence, padding not counted, from 0.';
COMMENT ON COLUMN tokens.token_id IS 'The tokenizer''s id.';
COMMENT ON COLUMN tokens.token IS 'The token''s text.';
COMMENT ON COLUMN tokens.phase IS 'prefill (read) or decode (generated).';
COMMENT ON COLUMN tokens.logprob IS 'Natural log of the probability the model gave this token, given those before it.';
COMMENT ON COLUMN tokens.predicted_id IS 'The model''s argmax at this position: its guess for the next token.';

CREATE VIEW routing AS
SELECT run_id, sequence_id, position, layer, experts, weights, entropy, margin, output_norms, output_absmaxes,
    input_absmax, missing_reason
FROM raw.routing;
COMMENT ON VIEW routing IS 'One row per token and layer: what the router chose.';
COMMENT ON COLUMN routing.run_id IS 'The run.';
COMMENT ON COLUMN routing.sequence_id IS 'The sequence.';
COMMENT ON COLUMN routing.position IS 'Position in the sequence.';
COMMENT ON COLUMN routing.layer IS 'The model''s own layer index.';
COMMENT ON COLUMN routing.experts IS 'Chosen experts in descending weight order; NULL where there is none.';
COMMENT ON COLUMN routing.weights IS 'Weights really used, in the same order (they need not sum to 1).';
COMMENT ON COLUMN routing.entropy IS 'Entropy of the softmax over all experts, nats.';
COMMENT ON COLUMN routing.margin IS 'k-th chosen score minus the best score not chosen.';
COMMENT ON COLUMN routing.output_norms IS 'L2 norm of each chosen expert''s output before weighting.';
COMMENT ON COLUMN routing.output_absmaxes IS 'Largest absolute component of that output.';
COMMENT ON COLUMN routing.input_absmax IS 'Largest absolute component of what the experts were given.';
COMMENT ON COLUMN routing.missing_reason IS 'Why there is no expert here; NULL where there is.';

CREATE VIEW assignments AS
SELECT * FROM (
    SELECT run_id, sequence_id, position, layer, unnest(range(1, len(experts) + 1))::UTINYINT AS rank,
        unnest(experts) AS expert, unnest(weights) AS weight, unnest(output_norms) AS output_norm,
        unnest(output_absmaxes) AS output_absmax
    FROM raw.routing
) WHERE expert IS NOT NULL;
COMMENT ON VIEW assignments IS 'One row per token, layer and chosen expert.';
COMMENT ON COLUMN assignments.run_id IS 'The run.';
COMMENT ON COLUMN assignments.sequence_id IS 'The sequence.';
COMMENT ON COLUMN assignments.position IS 'Position in the sequence.';
COMMENT ON COLUMN assignments.layer IS 'The model''s own layer index.';
COMMENT ON COLUMN assignments.rank IS 'Place in descending weight order, from 1.';
COMMENT ON COLUMN assignments.expert IS 'The expert.';
COMMENT ON COLUMN assignments.weight IS 'Weight really used.';
COMMENT ON COLUMN assignments.output_norm IS 'L2 norm of its output before weighting.';
COMMENT ON COLUMN assignments.output_absmax IS 'Largest absolute component of that output.';

CREATE VIEW raw.logits AS
SELECT r.run_id, r.sequence_id, r.position, r.layer, r.experts, l.gating, CASE
        WHEN r.logits IS NOT NULL THEN r.logits
        WHEN r.logits_32 IS NOT NULL THEN [raw.float32_at(r.logits_32, i) FOR i IN range(l.num_experts)]
        WHEN l.logits_type = 'bfloat16' THEN [raw.bfloat16_at(r.logits_16, i) FOR i IN range(l.num_experts)]
        ELSE [raw.float16_at(r.logits_16, i) FOR i IN range(l.num_experts)]
    END AS logits
FROM raw.routing r JOIN raw.layers l ON l.run_id = r.run_id AND l.layer = r.layer
WHERE r.logits IS NOT NULL OR r.logits_32 IS NOT NULL OR r.logits_16 IS NOT NULL;
COMMENT ON VIEW raw.logits IS 'Kept logits as lists of FLOAT, exactly.';
COMMENT ON COLUMN raw.logits.run_id IS 'The run.';
COMMENT ON COLUMN raw.logits.sequence_id IS 'The sequence.';
COMMENT ON COLUMN raw.logits.position IS 'The position.';
COMMENT ON COLUMN raw.logits.layer IS 'The layer.';
COMMENT ON COLUMN raw.logits.experts IS 'The chosen experts.';
COMMENT ON COLUMN raw.logits.gating IS 'Kind of gating.';
COMMENT ON COLUMN raw.logits.logits IS 'One logit per expert.';

CREATE VIEW router_logits AS
WITH scored AS (
    SELECT *, CASE
        WHEN kind = 'unknown' THEN [NULL::DOUBLE FOR x IN logits]
        WHEN kind = 'sqrtsoftplus' THEN [sqrt(ln(1 + exp(-abs(x::DOUBLE))) + greatest(x::DOUBLE, 0)) FOR x IN logits]
        WHEN kind = 'sigmoid' OR (kind != 'softmax' AND gating ILIKE '%sigmoid%')
            THEN [1 / (1 + exp(-x::DOUBLE)) FOR x IN logits]
        ELSE [exp(x::DOUBLE - highest) FOR x IN logits] END AS scores
    FROM (SELECT *, list_max(logits) AS highest, lower(trim(split_part(coalesce(gating, ''), ':', 1))) AS kind
        FROM raw.logits)
), summed AS (SELECT *, list_sum(scores) AS total FROM scored)
SELECT run_id, sequence_id, position, layer, expert, logit, (score / total)::FLOAT AS probability,
    coalesce(list_contains(experts, expert), false) AS chosen
FROM (
    SELECT run_id, sequence_id, position, layer, experts, total, unnest(range(len(logits)))::USMALLINT AS expert,
        unnest(logits) AS logit, unnest(scores) AS score
    FROM summed
);
COMMENT ON VIEW router_logits IS 'One row per token, layer and expert, where the logits were kept.';
COMMENT ON COLUMN router_logits.run_id IS 'The run.';
COMMENT ON COLUMN router_logits.sequence_id IS 'The sequence.';
COMMENT ON COLUMN router_logits.position IS 'Position in the sequence.';
COMMENT ON COLUMN router_logits.layer IS 'The model''s own layer index.';
COMMENT ON COLUMN router_logits.expert IS 'The expert.';
COMMENT ON COLUMN router_logits.logit IS 'The router''s logit, exactly as the model produced it.';
COMMENT ON COLUMN router_logits.probability IS 'The scores of the layer''s gating scaled to sum 1: softmax, sigmoid or sqrtsoftplus; NULL where the kind is unknown.';
COMMENT ON COLUMN router_logits.chosen IS 'Whether the expert was used.';

CREATE VIEW expert_stats AS
SELECT a.run_id, a.layer, a.expert, l.label, a.n_tokens, a.n_first, a.sum_weight, a.sum_probability, a.n_norm, a.sum_norm,
    a.sum_weight_norm, a.max_abs_output, a.max_output_sequence_id, a.max_output_position, a.max_abs_input,
    a.n_group_tokens
FROM (
    SELECT run_id, layer, label_id, n_tokens AS n_group_tokens, unnest(range(len(chosen)))::USMALLINT AS expert,
        unnest(chosen) AS n_tokens, unnest(first_chosen) AS n_first, unnest(sum_weight) AS sum_weight,
        unnest(sum_probability) AS sum_probability, unnest(n_norm) AS n_norm, unnest(sum_norm) AS sum_norm,
        unnest(sum_weight_norm) AS sum_weight_norm, unnest(max_abs_output) AS max_abs_output,
        unnest(max_output_sequence_id) AS max_output_sequence_id, unnest(max_output_position) AS max_output_position,
        unnest(max_abs_input) AS max_abs_input
    FROM raw.aggregates
) a LEFT JOIN raw.labels l ON l.run_id = a.run_id AND l.label_id = a.label_id;
COMMENT ON VIEW expert_stats IS 'One row per run, layer, expert and label: counts and sums that add up over labels and runs.';
COMMENT ON COLUMN expert_stats.run_id IS 'The run.';
COMMENT ON COLUMN expert_stats.layer IS 'The model''s own layer index.';
COMMENT ON COLUMN expert_stats.expert IS 'The expert.';
COMMENT ON COLUMN expert_stats.label IS 'Label of the sequences; NULL for sequences without one.';
COMMENT ON COLUMN expert_stats.n_tokens IS 'Tokens that chose the expert.';
COMMENT ON COLUMN expert_stats.n_first IS 'Tokens that ranked it first.';
COMMENT ON COLUMN expert_stats.sum_weight IS 'Sum of its weights over those tokens.';
COMMENT ON COLUMN expert_stats.sum_probability IS 'Sum of its router probability over all tokens whose logits were kept.';
COMMENT ON COLUMN expert_stats.n_norm IS 'Choices whose output norm is known.';
COMMENT ON COLUMN expert_stats.sum_norm IS 'Sum of its output norms.';
COMMENT ON COLUMN expert_stats.sum_weight_norm IS 'Sum of weight times output norm.';
COMMENT ON COLUMN expert_stats.max_abs_output IS 'Largest absolute component of its outputs; NULL where unknown.';
COMMENT ON COLUMN expert_stats.max_output_sequence_id IS 'Sequence of the token that made that maximum.';
COMMENT ON COLUMN expert_stats.max_output_position IS 'Position of that token.';
COMMENT ON COLUMN expert_stats.max_abs_input IS 'Largest absolute input component over the tokens that chose it; NULL where unknown.';
COMMENT ON COLUMN expert_stats.n_group_tokens IS 'All tokens with routing in this layer and label.';

CREATE VIEW layer_stats AS
SELECT a.run_id, a.layer, l.label, a.n_tokens, a.n_missing, a.n_logits, a.n_entropy, a.sum_entropy, a.sum_entropy_squared,
    a.n_margin, a.sum_margin, a.sum_margin_squared
FROM raw.aggregates a LEFT JOIN raw.labels l ON l.run_id = a.run_id AND l.label_id = a.label_id;
COMMENT ON VIEW layer_stats IS 'One row per run, layer and label: counts and sums that add up over labels and runs.';
COMMENT ON COLUMN layer_stats.run_id IS 'The run.';
COMMENT ON COLUMN layer_stats.layer IS 'The model''s own layer index.';
COMMENT ON COLUMN layer_stats.label IS 'Label of the sequences; NULL for sequences without one.';
COMMENT ON COLUMN layer_stats.n_tokens IS 'Tokens with routing.';
COMMENT ON COLUMN layer_stats.n_missing IS 'Tokens without.';
COMMENT ON COLUMN layer_stats.n_logits IS 'Tokens whose logits were kept.';
COMMENT ON COLUMN layer_stats.n_entropy IS 'Tokens whose entropy is known.';
COMMENT ON COLUMN layer_stats.sum_entropy IS 'Sum of their entropies, nats.';
COMMENT ON COLUMN layer_stats.sum_entropy_squared IS 'Sum of the squares.';
COMMENT ON COLUMN layer_stats.n_margin IS 'Tokens whose margin is known.';
COMMENT ON COLUMN layer_stats.sum_margin IS 'Sum of their margins.';
COMMENT ON COLUMN layer_stats.sum_margin_squared IS 'Sum of the squares.';

CREATE VIEW coactivation AS
SELECT run_id, layer, expert, unnest(range(len(together)))::USMALLINT AS other, unnest(together) AS n_tokens
FROM raw.coactivation;
COMMENT ON VIEW coactivation IS 'One row per run, layer and ordered pair of experts: how often they were chosen together.';
COMMENT ON COLUMN coactivation.run_id IS 'The run.';
COMMENT ON COLUMN coactivation.layer IS 'The model''s own layer index.';
COMMENT ON COLUMN coactivation.expert IS 'One expert.';
COMMENT ON COLUMN coactivation.other IS 'The other; where it is the same one, n_tokens is the expert''s own count.';
COMMENT ON COLUMN coactivation.n_tokens IS 'Tokens that chose both.';

CREATE VIEW output_vectors AS
SELECT run_id, sequence_id, position, layer, expert, vector FROM raw.output_vectors;
COMMENT ON VIEW output_vectors IS 'One row per token, layer and chosen expert whose output vector was kept (a sample).';
COMMENT ON COLUMN output_vectors.run_id IS 'The run.';
COMMENT ON COLUMN output_vectors.sequence_id IS 'The sequence.';
COMMENT ON COLUMN output_vectors.position IS 'Position in the sequence.';
COMMENT ON COLUMN output_vectors.layer IS 'The model''s own layer index.';
COMMENT ON COLUMN output_vectors.expert IS 'The expert.';
COMMENT ON COLUMN output_vectors.vector IS 'Its output before weighting.';

CREATE VIEW expert_outputs AS
SELECT run_id, layer, expert, n_tokens, mean, m2 FROM raw.expert_outputs;
COMMENT ON VIEW expert_outputs IS 'One row per run, layer and expert: mean and spread of its output vectors.';
COMMENT ON COLUMN expert_outputs.run_id IS 'The run.';
COMMENT ON COLUMN expert_outputs.layer IS 'The model''s own layer index.';
COMMENT ON COLUMN expert_outputs.expert IS 'The expert.';
COMMENT ON COLUMN expert_outputs.n_tokens IS 'Vectors seen.';
COMMENT ON COLUMN expert_outputs.mean IS 'Their mean.';
COMMENT ON COLUMN expert_outputs.m2 IS 'Sum of squared differences from the mean, per component (variance = m2 / n_tokens).';

CREATE TABLE raw.results (
    result_id INTEGER, run_id INTEGER, metric VARCHAR, params JSON, created_at TIMESTAMP, question VARCHAR,
    formula VARCHAR, source VARCHAR, n_rows BIGINT
);
COMMENT ON TABLE raw.results IS 'One row per saved table of a metric.';
COMMENT ON COLUMN raw.results.result_id IS 'Number of the result in this file, from 1.';
COMMENT ON COLUMN raw.results.run_id IS 'The run it was computed over.';
COMMENT ON COLUMN raw.results.metric IS 'Name of the metric.';
COMMENT ON COLUMN raw.results.params IS 'Its options, as JSON.';
COMMENT ON COLUMN raw.results.created_at IS 'When it was computed, UTC.';
COMMENT ON COLUMN raw.results.question IS 'What the metric asks.';
COMMENT ON COLUMN raw.results.formula IS 'How it is defined.';
COMMENT ON COLUMN raw.results.source IS 'Where the definition comes from.';
COMMENT ON COLUMN raw.results.n_rows IS 'Rows of the table.';

CREATE TABLE raw.result_columns (
    result_id INTEGER, place SMALLINT, name VARCHAR, unit VARCHAR, description VARCHAR
);
COMMENT ON TABLE raw.result_columns IS 'One row per column of a saved table.';
COMMENT ON COLUMN raw.result_columns.result_id IS 'The saved table.';
COMMENT ON COLUMN raw.result_columns.place IS 'Place of the column, from 0.';
COMMENT ON COLUMN raw.result_columns.name IS 'Name of the column.';
COMMENT ON COLUMN raw.result_columns.unit IS 'Unit of its numbers.';
COMMENT ON COLUMN raw.result_columns.description IS 'What they mean.';

CREATE TABLE raw.result_rows (result_id INTEGER, row_number BIGINT, data JSON);
COMMENT ON TABLE raw.result_rows IS 'One row per row of a saved table.';
COMMENT ON COLUMN raw.result_rows.result_id IS 'The saved table.';
COMMENT ON COLUMN raw.result_rows.row_number IS 'Place of the row, from 0.';
COMMENT ON COLUMN raw.result_rows.data IS 'Its values by column name; what is undefined is null.';

CREATE TABLE raw.result_bases (result_id INTEGER, basis JSON);
COMMENT ON TABLE raw.result_bases IS 'What each saved table rests on; one without a row is of an earlier version.';
COMMENT ON COLUMN raw.result_bases.result_id IS 'The saved table.';
COMMENT ON COLUMN raw.result_bases.basis IS 'Hashes of the runs and of the code, as JSON; it is out of date where they differ now.';
CREATE VIEW results AS
SELECT result_id, run_id, metric, params, created_at, question, formula, source, n_rows FROM raw.results;
COMMENT ON VIEW results IS 'One row per saved table of a metric (probe analyze … --save), with its definition.';
COMMENT ON COLUMN results.result_id IS 'Number of the result in this file, from 1.';
COMMENT ON COLUMN results.run_id IS 'The run it was computed over.';
COMMENT ON COLUMN results.metric IS 'Name of the metric.';
COMMENT ON COLUMN results.params IS 'Its options, as JSON.';
COMMENT ON COLUMN results.created_at IS 'When it was computed, UTC.';
COMMENT ON COLUMN results.question IS 'What the metric asks.';
COMMENT ON COLUMN results.formula IS 'How it is defined; the units are in result_columns.';
COMMENT ON COLUMN results.source IS 'Where the definition comes from.';
COMMENT ON COLUMN results.n_rows IS 'Rows of the table.';

CREATE VIEW result_columns AS
SELECT result_id, place, name, unit, description FROM raw.result_columns;
COMMENT ON VIEW result_columns IS 'One row per column of a saved table: its unit and what it means.';
COMMENT ON COLUMN result_columns.result_id IS 'The saved table.';
COMMENT ON COLUMN result_columns.place IS 'Place of the column, from 0.';
COMMENT ON COLUMN result_columns.name IS 'Name of the column.';
COMMENT ON COLUMN result_columns.unit IS 'Unit of its numbers.';
COMMENT ON COLUMN result_columns.description IS 'What they mean.';

CREATE VIEW result_rows AS
SELECT w.result_id, r.run_id, r.metric, w.row_number, w.data
FROM raw.result_rows w JOIN raw.results r ON r.result_id = w.result_id;
COMMENT ON VIEW result_rows IS 'One row per row of a saved table; a value is data->>''column'', as in (data->>''npmi'')::DOUBLE.';
COMMENT ON COLUMN result_rows.result_id IS 'The saved table.';
COMMENT ON COLUMN result_rows.run_id IS 'The run it was computed over.';
COMMENT ON COLUMN result_rows.metric IS 'Name of the metric.';
COMMENT ON COLUMN result_rows.row_number IS 'Place of the row, from 0.';
COMMENT ON COLUMN result_rows.data IS 'Its values by column name, as JSON; what is undefined is null. Units: result_columns.';

-- What is recorded on request: the residual stream around the experts, and what the routers received.
CREATE TABLE raw.hidden (
    run_id INTEGER, sequence_id INTEGER, position INTEGER, layer SMALLINT,
    similarity FLOAT, hidden_absmax FLOAT, hidden_absmedian FLOAT
);
COMMENT ON TABLE raw.hidden IS 'The residual stream around the experts, where it was kept: one row per token and layer.';
COMMENT ON COLUMN raw.hidden.run_id IS 'The run.';
COMMENT ON COLUMN raw.hidden.sequence_id IS 'The sequence.';
COMMENT ON COLUMN raw.hidden.position IS 'Position in the sequence.';
COMMENT ON COLUMN raw.hidden.layer IS 'The layer.';
COMMENT ON COLUMN raw.hidden.similarity IS 'Cosine of h, the residual stream before the experts, and h plus what they returned.';
COMMENT ON COLUMN raw.hidden.hidden_absmax IS 'Largest absolute component of h.';
COMMENT ON COLUMN raw.hidden.hidden_absmedian IS 'Median absolute component of h.';
CREATE TABLE raw.router_inputs (run_id INTEGER, layer SMALLINT, expert USMALLINT, n_tokens BIGINT, total DOUBLE[]);
COMMENT ON TABLE raw.router_inputs IS 'Sums of what each router received, by the expert ranked first.';
COMMENT ON COLUMN raw.router_inputs.run_id IS 'The run.';
COMMENT ON COLUMN raw.router_inputs.layer IS 'The layer.';
COMMENT ON COLUMN raw.router_inputs.expert IS 'The expert ranked first.';
COMMENT ON COLUMN raw.router_inputs.n_tokens IS 'Tokens that ranked it first.';
COMMENT ON COLUMN raw.router_inputs.total IS 'Sum of their router inputs.';
CREATE TABLE raw.router_products (run_id INTEGER, layer SMALLINT, component INTEGER, products DOUBLE[]);
COMMENT ON TABLE raw.router_products IS 'Sums of products of the components of the router inputs, over all tokens: the upper triangle, row by row.';
COMMENT ON COLUMN raw.router_products.run_id IS 'The run.';
COMMENT ON COLUMN raw.router_products.layer IS 'The layer.';
COMMENT ON COLUMN raw.router_products.component IS 'One component, from 0.';
COMMENT ON COLUMN raw.router_products.products IS 'Its products with itself and every later component.';
CREATE VIEW hidden AS
SELECT run_id, sequence_id, position, layer, similarity, hidden_absmax, hidden_absmedian FROM raw.hidden;
COMMENT ON VIEW hidden IS 'One row per token and layer whose residual stream was measured.';
COMMENT ON COLUMN hidden.run_id IS 'The run.';
COMMENT ON COLUMN hidden.sequence_id IS 'The sequence.';
COMMENT ON COLUMN hidden.position IS 'Position in the sequence.';
COMMENT ON COLUMN hidden.layer IS 'The model''s own layer index.';
COMMENT ON COLUMN hidden.similarity IS 'Cosine of h, the residual stream before the experts, and h plus what they returned.';
COMMENT ON COLUMN hidden.hidden_absmax IS 'Largest absolute component of h.';
COMMENT ON COLUMN hidden.hidden_absmedian IS 'Median absolute component of h.';
CREATE VIEW router_inputs AS
SELECT run_id, layer, expert, n_tokens, CASE WHEN n_tokens > 0 THEN [x / n_tokens FOR x IN total] END AS mean
FROM raw.router_inputs;
COMMENT ON VIEW router_inputs IS 'One row per run, layer and expert: mean of what the router received for tokens that ranked the expert first.';
COMMENT ON COLUMN router_inputs.run_id IS 'The run.';
COMMENT ON COLUMN router_inputs.layer IS 'The model''s own layer index.';
COMMENT ON COLUMN router_inputs.expert IS 'The expert ranked first.';
COMMENT ON COLUMN router_inputs.n_tokens IS 'Tokens that ranked it first.';
COMMENT ON COLUMN router_inputs.mean IS 'Mean of their router inputs; NULL where there is none.';

-- What is recorded on request of the shared experts, and of every expert.
CREATE TABLE raw.shared (
    run_id INTEGER, sequence_id INTEGER, position INTEGER, layer SMALLINT,
    shared_absmax FLOAT, shared_input_absmax FLOAT
);
COMMENT ON TABLE raw.shared IS 'The shared expert of each layer, where it was measured: one row per token and layer.';
COMMENT ON COLUMN raw.shared.run_id IS 'The run.';
COMMENT ON COLUMN raw.shared.sequence_id IS 'The sequence.';
COMMENT ON COLUMN raw.shared.position IS 'Position in the sequence.';
COMMENT ON COLUMN raw.shared.layer IS 'The layer.';
COMMENT ON COLUMN raw.shared.shared_absmax IS 'Largest absolute component of what the shared expert returned.';
COMMENT ON COLUMN raw.shared.shared_input_absmax IS 'Largest absolute component of what it received.';
CREATE VIEW shared_outputs AS
SELECT run_id, sequence_id, position, layer, shared_absmax AS output_absmax, shared_input_absmax AS input_absmax
FROM raw.shared;
COMMENT ON VIEW shared_outputs IS 'One row per token and layer whose shared expert was measured.';
COMMENT ON COLUMN shared_outputs.run_id IS 'The run.';
COMMENT ON COLUMN shared_outputs.sequence_id IS 'The sequence.';
COMMENT ON COLUMN shared_outputs.position IS 'Position in the sequence.';
COMMENT ON COLUMN shared_outputs.layer IS 'The model''s own layer index.';
COMMENT ON COLUMN shared_outputs.output_absmax IS 'Largest absolute component of what the shared expert returned, before any gate.';
COMMENT ON COLUMN shared_outputs.input_absmax IS 'Largest absolute component of what it received.';
CREATE TABLE raw.expert_norms (run_id INTEGER, sequence_id INTEGER, position INTEGER, layer SMALLINT, norms FLOAT[]);
COMMENT ON TABLE raw.expert_norms IS 'Norms of what every expert makes of a token, where all were run: one row per token and layer.';
COMMENT ON COLUMN raw.expert_norms.run_id IS 'The run.';
COMMENT ON COLUMN raw.expert_norms.sequence_id IS 'The sequence.';
COMMENT ON COLUMN raw.expert_norms.position IS 'Position in the sequence.';
COMMENT ON COLUMN raw.expert_norms.layer IS 'The layer.';
COMMENT ON COLUMN raw.expert_norms.norms IS 'L2 norm of each expert''s output, by expert.';
CREATE VIEW expert_norms AS SELECT run_id, sequence_id, position, layer, norms FROM raw.expert_norms;
COMMENT ON VIEW expert_norms IS 'One row per token and layer for which every expert was run, not only the chosen ones.';
COMMENT ON COLUMN expert_norms.run_id IS 'The run.';
COMMENT ON COLUMN expert_norms.sequence_id IS 'The sequence.';
COMMENT ON COLUMN expert_norms.position IS 'Position in the sequence.';
COMMENT ON COLUMN expert_norms.layer IS 'The model''s own layer index.';
COMMENT ON COLUMN expert_norms.norms IS 'L2 norm of each expert''s output before weighting: norms[1] is expert 0''s.';
