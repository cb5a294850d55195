-- How many experts the router chooses, and how many a token can have in a run, are two numbers.

ALTER TABLE raw.layers ADD COLUMN slots INTEGER;
UPDATE raw.layers SET slots = top_k;
-- A steered run's width stood in the place of the router's own number; its baseline run knows that.
UPDATE raw.layers SET top_k = b.top_k
FROM raw.runs r, raw.layers b
WHERE r.run_id = layers.run_id AND b.run_id = r.baseline_run_id AND b.layer = layers.layer AND r.intervention IS NOT NULL;
COMMENT ON COLUMN raw.layers.top_k IS 'Experts the router chooses per token.';
COMMENT ON COLUMN raw.layers.slots IS 'Most experts of a token in this run: not top_k where an intervention changes it.';
COMMENT ON COLUMN runs.top_k IS 'Experts the router chooses per token (the largest, where layers differ).';
COMMENT ON COLUMN raw.routing.experts IS 'Chosen experts, descending weight; NULL where there is none.';
COMMENT ON COLUMN raw.routing.missing_reason IS 'Why there is no expert here; NULL where there is.';
COMMENT ON COLUMN routing.experts IS 'Chosen experts in descending weight order; NULL where there is none.';
COMMENT ON COLUMN routing.missing_reason IS 'Why there is no expert here; NULL where there is.';
DROP VIEW layers;
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
