-- What a saved result rests on: the state of the runs and of the code it was computed with.

CREATE TABLE raw.result_bases (result_id INTEGER, basis JSON);
COMMENT ON TABLE raw.result_bases IS 'What each saved table rests on; one without a row is of an earlier version.';
COMMENT ON COLUMN raw.result_bases.result_id IS 'The saved table.';
COMMENT ON COLUMN raw.result_bases.basis IS 'Hashes of the runs and of the code, as JSON; it is out of date where they differ now.';
