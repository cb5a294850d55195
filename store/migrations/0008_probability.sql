-- Probabilities go by the stated kind of scores; where that is unknown there are none.

DROP VIEW router_logits;
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
