-- The right to keep outboxd's state, in which a pause is stored.
--
-- Safe to repeat. By hand: replace the names in double braces, role by "outboxd", state by
-- "outbox"."outboxd_state" (state.sql creates it), then
--
--     psql -1 -f role_state.sql

GRANT SELECT, INSERT, UPDATE ON {{state}} TO {{role}};
