-- A revision counts the changes to one part of the store. It moves on in the
-- transaction of each change. What each part is: see revision.go.

-- +goose Up
CREATE TABLE revisions (
  name   TEXT PRIMARY KEY,
  number BIGINT NOT NULL
);
INSERT INTO revisions (name, number) VALUES ('iam', 1), ('documents', 1), ('keys', 1);

-- +goose Down
DROP TABLE revisions;
