-- How large the outputs of the shared experts are, and those of every expert.

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
