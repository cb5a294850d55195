-- Saved results: a metric's table, with what it was computed from and what its columns mean.

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
