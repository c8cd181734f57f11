-- What was refused is found without reading everything else.

CREATE INDEX record_refused ON record (indexed_at) WHERE problem IS NOT NULL;
