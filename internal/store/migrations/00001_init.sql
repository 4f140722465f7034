-- One text for both engines. What keeps it so: TEXT ids, BIGINT milliseconds
-- since 1970 with 0 for "never", TEXT for JSON, BYTEA, BOOLEAN; no arrays, no
-- now(), no ::casts. A column that is not NULL-able costs no sql.Null type.

-- +goose Up
CREATE TABLE meta (
  name  TEXT PRIMARY KEY,
  value BYTEA NOT NULL
);

-- Users, groups and roles. What hangs on one hangs on its id, so that a rename
-- is one row. folded is the name in lower case: IAM's names differ by more
-- than case, though they are looked up exactly.
CREATE TABLE entities (
  id          TEXT PRIMARY KEY,
  kind        TEXT NOT NULL,
  name        TEXT NOT NULL,
  folded      TEXT NOT NULL,
  path        TEXT NOT NULL,
  description TEXT NOT NULL DEFAULT '',
  trust       TEXT NOT NULL DEFAULT '',
  max_session BIGINT NOT NULL DEFAULT 0,
  boundary    TEXT NOT NULL DEFAULT '',
  tags        TEXT NOT NULL DEFAULT '{}',
  created     BIGINT NOT NULL
);
CREATE UNIQUE INDEX entities_name ON entities (kind, name);
CREATE UNIQUE INDEX entities_folded ON entities (kind, folded);
CREATE INDEX entities_boundary ON entities (boundary) WHERE boundary <> '';

CREATE TABLE members (
  group_id TEXT NOT NULL REFERENCES entities (id),
  user_id  TEXT NOT NULL REFERENCES entities (id),
  PRIMARY KEY (group_id, user_id)
);
CREATE INDEX members_user ON members (user_id, group_id);

CREATE TABLE inline_policies (
  entity   TEXT NOT NULL REFERENCES entities (id),
  name     TEXT NOT NULL,
  document TEXT NOT NULL,
  PRIMARY KEY (entity, name)
);

CREATE TABLE policies (
  arn             TEXT PRIMARY KEY,
  id              TEXT NOT NULL,
  name            TEXT NOT NULL,
  folded          TEXT NOT NULL UNIQUE,
  path            TEXT NOT NULL,
  description     TEXT NOT NULL,
  tags            TEXT NOT NULL,
  default_version BIGINT NOT NULL,
  last_version    BIGINT NOT NULL,
  created         BIGINT NOT NULL,
  updated         BIGINT NOT NULL
);

CREATE TABLE policy_versions (
  arn      TEXT NOT NULL REFERENCES policies (arn) ON DELETE CASCADE,
  version  BIGINT NOT NULL,
  document TEXT NOT NULL,
  created  BIGINT NOT NULL,
  PRIMARY KEY (arn, version)
);

-- arn refers to nothing: AWS's own policies are in the program, not here.
CREATE TABLE attachments (
  entity TEXT NOT NULL REFERENCES entities (id),
  arn    TEXT NOT NULL,
  PRIMARY KEY (entity, arn)
);
CREATE INDEX attachments_arn ON attachments (arn, entity);

-- user_id is NULL for the keys of the account itself.
CREATE TABLE access_keys (
  id           TEXT PRIMARY KEY,
  user_id      TEXT REFERENCES entities (id),
  secret       BYTEA NOT NULL,
  active       BOOLEAN NOT NULL,
  created      BIGINT NOT NULL,
  last_used    BIGINT NOT NULL DEFAULT 0,
  last_service TEXT NOT NULL DEFAULT ''
);
CREATE INDEX access_keys_user ON access_keys (user_id);

CREATE TABLE activations (
  id            TEXT PRIMARY KEY,
  code          BYTEA NOT NULL,
  description   TEXT NOT NULL,
  name          TEXT NOT NULL,
  role          TEXT NOT NULL,
  most          BIGINT NOT NULL,
  registrations BIGINT NOT NULL DEFAULT 0,
  created       BIGINT NOT NULL,
  expires       BIGINT NOT NULL,
  tags          TEXT NOT NULL
);
CREATE INDEX activations_created ON activations (created, id);

-- activation refers to nothing: nodes outlive the activation they came by.
CREATE TABLE nodes (
  id                 TEXT PRIMARY KEY,
  name               TEXT NOT NULL,
  activation         TEXT NOT NULL,
  role               TEXT NOT NULL,
  registered         BIGINT NOT NULL,
  public_key         BYTEA NOT NULL,
  fingerprint        TEXT NOT NULL,
  agent_name         TEXT NOT NULL DEFAULT '',
  agent_version      TEXT NOT NULL DEFAULT '',
  platform_type      TEXT NOT NULL DEFAULT '',
  platform_name      TEXT NOT NULL DEFAULT '',
  platform_version   TEXT NOT NULL DEFAULT '',
  computer_name      TEXT NOT NULL DEFAULT '',
  ip_address         TEXT NOT NULL DEFAULT '',
  availability_zone  TEXT NOT NULL DEFAULT '',
  connection_channel TEXT NOT NULL DEFAULT '',
  last_ping          BIGINT NOT NULL DEFAULT 0,
  online             BOOLEAN NOT NULL DEFAULT FALSE,
  trouble_at         BIGINT NOT NULL DEFAULT 0,
  trouble            TEXT NOT NULL DEFAULT ''
);
CREATE INDEX nodes_name ON nodes (name, id);
CREATE INDEX nodes_activation ON nodes (activation, id);
CREATE INDEX nodes_role ON nodes (role, id);
CREATE INDEX nodes_agent_version ON nodes (agent_version, id);
CREATE INDEX nodes_platform_type ON nodes (platform_type, id);
CREATE INDEX nodes_online ON nodes (online, id);

CREATE TABLE node_tags (
  node  TEXT NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
  name  TEXT NOT NULL,
  value TEXT NOT NULL,
  PRIMARY KEY (node, name)
);
CREATE INDEX node_tags_name ON node_tags (name, value, node);

-- ended is 0 while a session is on. node refers to nothing: history outlives
-- the machines in it.
CREATE TABLE sessions (
  id           TEXT PRIMARY KEY,
  owner        TEXT NOT NULL,
  owner_id     TEXT NOT NULL,
  node         TEXT NOT NULL,
  document     TEXT NOT NULL,
  reason       TEXT NOT NULL,
  started      BIGINT NOT NULL,
  max_duration BIGINT NOT NULL,
  state        TEXT NOT NULL,
  ended        BIGINT NOT NULL DEFAULT 0,
  cause        TEXT NOT NULL DEFAULT '',
  exit_status  BIGINT,
  parameters   TEXT NOT NULL,
  token        BYTEA NOT NULL,
  client       TEXT NOT NULL,
  bound        BOOLEAN NOT NULL,
  node_token   BYTEA NOT NULL,
  resume       TEXT NOT NULL,
  log_size     BIGINT NOT NULL DEFAULT 0,
  log_hash     BYTEA NOT NULL
);
-- Sessions that are on are few. History is long, and every page of it is one
-- walk down one of the four indexes after that, for each of the two final
-- states: see (*DB).History. They are partial so that a session costs them
-- nothing until it ends.
CREATE INDEX sessions_active ON sessions (started, id) WHERE ended = 0;
CREATE INDEX sessions_history ON sessions (state, started, id) WHERE ended > 0;
CREATE INDEX sessions_history_owner ON sessions (owner, state, started, id) WHERE ended > 0;
CREATE INDEX sessions_history_node ON sessions (node, state, started, id) WHERE ended > 0;
CREATE INDEX sessions_history_owner_node ON sessions (owner, node, state, started, id) WHERE ended > 0;

-- +goose Down
DROP TABLE sessions;
DROP TABLE node_tags;
DROP TABLE nodes;
DROP TABLE activations;
DROP TABLE access_keys;
DROP TABLE attachments;
DROP TABLE policy_versions;
DROP TABLE policies;
DROP TABLE inline_policies;
DROP TABLE members;
DROP TABLE entities;
DROP TABLE meta;
