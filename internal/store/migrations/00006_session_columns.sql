-- What a session is, and who answers for it.
--
--   kind             the type of its document: Standard_Stream, Port and so on;
--                    '' of sessions from before it was kept
--   run_as           the user of the node that Run As names; '' is the agent's own
--   mfa              when its owner had shown a second factor; 0 is never, NULL is
--                    not known
--   recording        'open' while its log is written, 'sealed' once the recording
--                    is made, 'unsealed' if it has ended and that failed; '' is not
--                    known
--   epoch            how many servers have had it: it counts up when a server takes
--                    the session up, and what a server writes of a session under an
--                    earlier epoch is refused
--
-- The root identity (root) is a user's ID, the account's, or a node's. That of a
-- person from an outside issuer will be the issuer, a space and the subject.
--
-- These are NULL until they are true of something:
--
--   access_request   the ID of the access request that it was started under
--   source_identity  aws:SourceIdentity of the credentials
--   home             the server that has it; with one server there is nothing to say

-- +goose Up
ALTER TABLE sessions ADD COLUMN kind TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN run_as TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN mfa BIGINT;
ALTER TABLE sessions ADD COLUMN recording TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN epoch BIGINT NOT NULL DEFAULT 1;
ALTER TABLE sessions ADD COLUMN access_request TEXT;
ALTER TABLE sessions ADD COLUMN source_identity TEXT;
ALTER TABLE sessions ADD COLUMN home TEXT;
UPDATE sessions SET recording = 'open' WHERE ended = 0;
UPDATE sessions SET recording = 'sealed' WHERE ended > 0 AND log_size > 0;

-- +goose Down
ALTER TABLE sessions DROP COLUMN home;
ALTER TABLE sessions DROP COLUMN source_identity;
ALTER TABLE sessions DROP COLUMN access_request;
ALTER TABLE sessions DROP COLUMN epoch;
ALTER TABLE sessions DROP COLUMN recording;
ALTER TABLE sessions DROP COLUMN mfa;
ALTER TABLE sessions DROP COLUMN run_as;
ALTER TABLE sessions DROP COLUMN kind;
