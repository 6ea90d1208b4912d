-- Lets the role of role.sql delete old dead letters (OUTBOX_RETAIN, with role_delete.sql).
--
-- Safe to repeat; by hand as role.sql.

-- Closed ones alone: the role deletes no dead letter that waits for a decision.
GRANT DELETE ON {{dead_letter}} TO {{role}};
