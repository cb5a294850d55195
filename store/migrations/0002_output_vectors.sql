-- Sampled output vectors, and running moments of every expert's outputs.

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
