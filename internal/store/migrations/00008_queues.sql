-- Work that has to be done once what asked for it is stored: jobs, for the servers
-- themselves, and the outbox, for what has to be told outside. See queue.go.

-- +goose Up
CREATE TABLE queued (
  id          TEXT PRIMARY KEY,
  queue       TEXT NOT NULL,
  kind        TEXT NOT NULL,
  name        TEXT NOT NULL,
  node        TEXT NOT NULL,
  payload     TEXT NOT NULL,
  every       BIGINT NOT NULL,
  due         BIGINT NOT NULL,
  asked       BIGINT NOT NULL DEFAULT 1,
  attempts    BIGINT NOT NULL DEFAULT 0,
  lease       TEXT NOT NULL DEFAULT '',
  lease_until BIGINT NOT NULL DEFAULT 0,
  dead        BOOLEAN NOT NULL DEFAULT FALSE,
  error       TEXT NOT NULL DEFAULT '',
  created     BIGINT NOT NULL
);
CREATE UNIQUE INDEX queued_name ON queued (queue, kind, name);
CREATE INDEX queued_due ON queued (queue, due, id) WHERE dead = FALSE;
CREATE INDEX queued_node ON queued (queue, node, lease_until) WHERE node <> '';
INSERT INTO revisions (name, number) VALUES ('queues', 0);

-- +goose Down
DROP TABLE queued;
DELETE FROM revisions WHERE name = 'queues';
