-- What names a role or a user for later keeps its ID, which is never given to
-- another. A node and an activation keep their role's; what was stored before
-- has the ID of the role that has the name today, and none if there is none.
--
-- A session keeps the ID of the identity at the root of the credentials that
-- started it, and in basis, separated by spaces, the IDs of every access key,
-- user and role that those credentials rested on.

-- +goose Up
ALTER TABLE nodes ADD COLUMN role_id TEXT NOT NULL DEFAULT '';
UPDATE nodes SET role_id = coalesce((SELECT e.id FROM entities e WHERE e.kind = 'role' AND substr(e.path, 2) || e.name = nodes.role), '');

ALTER TABLE activations ADD COLUMN role_id TEXT NOT NULL DEFAULT '';
UPDATE activations SET role_id = coalesce((SELECT e.id FROM entities e WHERE e.kind = 'role' AND substr(e.path, 2) || e.name = activations.role), '');

ALTER TABLE sessions ADD COLUMN root TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN basis TEXT NOT NULL DEFAULT '';
UPDATE sessions SET root = owner_id;
UPDATE sessions SET basis = owner_id WHERE ended = 0 AND owner_id LIKE 'AIDA%';

-- +goose Down
ALTER TABLE sessions DROP COLUMN basis;
ALTER TABLE sessions DROP COLUMN root;
ALTER TABLE activations DROP COLUMN role_id;
ALTER TABLE nodes DROP COLUMN role_id;
