-- +goose Up
-- last_version is the highest number ever given out; the latest version is the
-- highest there is.
CREATE TABLE documents (
  name            TEXT PRIMARY KEY,
  created         BIGINT NOT NULL,
  default_version BIGINT NOT NULL,
  last_version    BIGINT NOT NULL,
  tags            TEXT NOT NULL DEFAULT '{}',
  shared          TEXT NOT NULL DEFAULT '[]'
);

CREATE TABLE document_versions (
  document     TEXT NOT NULL REFERENCES documents (name) ON DELETE CASCADE,
  version      BIGINT NOT NULL,
  version_name TEXT NOT NULL,
  display_name TEXT NOT NULL,
  target_type  TEXT NOT NULL,
  format       TEXT NOT NULL,
  content      TEXT NOT NULL,
  created      BIGINT NOT NULL,
  PRIMARY KEY (document, version)
);
CREATE UNIQUE INDEX document_versions_name ON document_versions (document, version_name) WHERE version_name <> '';

-- +goose Down
DROP TABLE document_versions;
DROP TABLE documents;
