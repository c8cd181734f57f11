-- Repos by how long ago they were compared with their host: host by host, and all together.

CREATE INDEX repo_verified ON repo (pds_url, verified_at);
CREATE INDEX repo_verified_at ON repo (verified_at);
