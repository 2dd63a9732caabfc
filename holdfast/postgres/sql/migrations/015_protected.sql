-- The applications whose executors register here. Of others in the same database it is unknown who is live, so their work
-- counts neither as orphaned nor as stranded.
CREATE VIEW ops.protected AS
SELECT name FROM ops.applications WHERE kind = 'stack' OR attached_at IS NOT NULL
UNION SELECT application FROM ops.executors;
