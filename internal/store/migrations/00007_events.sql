-- The event log. number counts from 1 without gaps, in the order of commits: it is
-- taken from the row of revisions that the transaction locks last and holds until
-- it is committed. So a reader that has seen an event will not miss an earlier one.

-- +goose Up
CREATE TABLE events (
  number   BIGINT PRIMARY KEY,
  at       BIGINT NOT NULL,
  kind     TEXT NOT NULL,
  name     TEXT NOT NULL,
  actor    TEXT NOT NULL,
  actor_id TEXT NOT NULL,
  subject  TEXT NOT NULL,
  request  TEXT NOT NULL,
  source   TEXT NOT NULL,
  error    TEXT NOT NULL,
  details  TEXT NOT NULL
);
INSERT INTO revisions (name, number) VALUES ('events', 0);

-- +goose Down
DROP TABLE events;
DELETE FROM revisions WHERE name = 'events';
