-- +goose Up
-- material is what the key is made of, sealed; empty for a key in an outside KMS.
CREATE TABLE kms_keys (
  id            TEXT PRIMARY KEY,
  description   TEXT NOT NULL,
  created       BIGINT NOT NULL,
  disabled      BOOLEAN NOT NULL DEFAULT FALSE,
  policy        TEXT NOT NULL,
  tags          TEXT NOT NULL DEFAULT '{}',
  delete_at     BIGINT NOT NULL DEFAULT 0,
  outside_store TEXT NOT NULL DEFAULT '',
  outside_name  TEXT NOT NULL DEFAULT '',
  material      BYTEA NOT NULL
);
CREATE UNIQUE INDEX kms_keys_outside ON kms_keys (outside_store, outside_name) WHERE outside_store <> '';

CREATE TABLE kms_aliases (
  name    TEXT PRIMARY KEY,
  key_id  TEXT NOT NULL REFERENCES kms_keys (id) ON DELETE CASCADE,
  created BIGINT NOT NULL,
  updated BIGINT NOT NULL
);
CREATE INDEX kms_aliases_key ON kms_aliases (key_id);

-- +goose Down
DROP TABLE kms_aliases;
DROP TABLE kms_keys;
