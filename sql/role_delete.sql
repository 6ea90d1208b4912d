-- Lets the role of role.sql delete published rows (OUTBOX_AFTER_PUBLISH=delete, and OUTBOX_RETAIN).
--
-- Safe to repeat; by hand as role.sql.

GRANT DELETE ON {{table}} TO {{role}};
