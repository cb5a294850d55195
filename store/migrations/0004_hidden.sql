-- The residual stream around the experts, and sums of what the routers received.

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
