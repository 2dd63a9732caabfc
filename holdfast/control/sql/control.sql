-- Control operations (holdfast/control/operations.py) and what their kinds do to workflows. A statement that acts takes
-- the ids of one batch and checks each row again under its lock, so that a batch that is repeated changes nothing. Rows
-- that other work has locked are skipped; the next scan finds them again. Stored rows may form a circle of
-- parents, in which a recursion must end.

-- name: begin_operation
-- Returns nothing if an unfinished operation acts on the same target. Waits for one that is just being stored.
INSERT INTO ops.operations (operation_id, kind, target, arguments, requested_by)
VALUES (%(operation_id)s, %(kind)s, %(target)s, %(arguments)s::jsonb, %(requested_by)s)
ON CONFLICT (target) WHERE ended_at IS NULL DO NOTHING
RETURNING operation_id, kind, target, arguments, (extract(epoch FROM requested_at) * 1000)::bigint AS requested_ms

-- name: replace_resume
-- Ends a resume that a cancel replaces. Waits for the batch that it is at.
UPDATE ops.operations SET status = 'ERROR', note = 'A cancel replaced it.', ended_at = clock_timestamp()
WHERE target = %(target)s AND kind = 'resume' AND ended_at IS NULL RETURNING operation_id

-- name: operation_on
SELECT operation_id, kind FROM ops.operations WHERE target = %(target)s AND ended_at IS NULL

-- name: claim_operation
-- Locks the operation that has waited longest (`only`: this one) until the end of the transaction.
SELECT operation_id, kind, target, arguments, (extract(epoch FROM requested_at) * 1000)::bigint AS requested_ms,
    completed
FROM ops.operations
WHERE ended_at IS NULL AND (operation_id = %(only)s OR %(only)s::text IS NULL AND due_at <= clock_timestamp())
ORDER BY advanced_at LIMIT 1 FOR UPDATE SKIP LOCKED

-- name: advance_operation
-- Adds what a batch did. `left` is how much was read and is still to be done: some of it may end by itself meanwhile.
UPDATE ops.operations
SET completed = completed + %(done)s,
    total = CASE %(status)s WHEN 'SUCCESS' THEN completed ELSE greatest(total, completed + %(done)s + %(left)s) END,
    advanced_at = clock_timestamp(), due_at = clock_timestamp() + make_interval(secs => %(pause_seconds)s),
    note = %(note)s, status = %(status)s, ended_at = CASE WHEN %(status)s <> 'RUNNING' THEN clock_timestamp() END
WHERE operation_id = %(operation_id)s AND ended_at IS NULL
RETURNING operation_id, kind, target, arguments, requested_by, requested_at, status, completed, total, advanced_at, note,
    ended_at

-- name: operation
SELECT operation_id, kind, target, arguments, requested_by, requested_at, status, completed, total, advanced_at, note,
    ended_at
FROM ops.operations WHERE operation_id = %(operation_id)s

-- name: operations
-- Returns the newest operations, those that are unfinished first.
SELECT operation_id, kind, target, arguments, requested_by, requested_at, status, completed, total, advanced_at, note,
    ended_at
FROM ops.operations ORDER BY ended_at IS NOT NULL, requested_at DESC, operation_id LIMIT %(limit)s

-- name: lock_workflow
SELECT status, name, application_name, updated_at FROM dbos.workflow_status WHERE workflow_uuid = %(workflow_id)s
FOR NO KEY UPDATE

-- name: scan_cancel
-- Returns the unfinished and parked workflows of a family, parents first: a parent that goes on would take a cancelled
-- child for a failed one. The recursion ends with the limit.
WITH RECURSIVE family AS (
    SELECT w.workflow_uuid, w.status FROM dbos.workflow_status w WHERE w.workflow_uuid = %(workflow_id)s
    UNION
    SELECT c.workflow_uuid, c.status FROM family f JOIN dbos.workflow_status c ON c.parent_workflow_id = f.workflow_uuid)
SELECT f.workflow_uuid AS workflow_id FROM family f
WHERE f.status NOT IN ('SUCCESS', 'ERROR', 'CANCELLED') LIMIT %(limit)s

-- name: cancel_work
-- Cancels as DBOS does (SystemDatabase.cancel_workflows, 3.4.0; a contract test compares the two), except that a workflow
-- that is cancelled already stays as it is. The cancel erases the queue, to which a resume returns the workflow: it is
-- stored, unless the workflow has its queue from its declaration (`named`, of the applications `own`).
WITH mine AS (
    SELECT w.workflow_uuid, w.queue_name, w.name, w.application_name FROM dbos.workflow_status w
    WHERE w.workflow_uuid = ANY (%(workflow_ids)s) AND w.status NOT IN ('SUCCESS', 'ERROR', 'CANCELLED')
    ORDER BY w.workflow_uuid FOR NO KEY UPDATE SKIP LOCKED
), remembered AS (
    INSERT INTO ops.crashes AS c (workflow_id, crashes, steps_recorded, queue_name)
    SELECT m.workflow_uuid, 0, 0, m.queue_name FROM mine m
    WHERE m.queue_name IS NOT NULL
      AND NOT (m.name = ANY (%(named)s::text[]) AND coalesce(m.application_name = ANY (%(own)s::text[]), true))
    ON CONFLICT (workflow_id) DO UPDATE SET queue_name = coalesce(c.queue_name, excluded.queue_name)
), at AS (SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms)
UPDATE dbos.workflow_status w
SET status = 'CANCELLED', owner_xid = NULL, queue_name = NULL, deduplication_id = NULL, started_at_epoch_ms = NULL,
    updated_at = at.now_ms, completed_at = at.now_ms
FROM mine m, at WHERE w.workflow_uuid = m.workflow_uuid
RETURNING w.workflow_uuid AS workflow_id

-- name: scan_resume
-- Returns the lowest level of a family's cancelled workflows: a parent that runs before its children are back finds them
-- cancelled. What was cancelled after the resume began stays cancelled.
WITH RECURSIVE family AS (
    SELECT w.workflow_uuid, w.updated_at, 0 AS level FROM dbos.workflow_status w
    WHERE w.workflow_uuid = %(workflow_id)s AND w.status IN ('CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED')
    UNION
    SELECT c.workflow_uuid, c.updated_at, f.level + 1 FROM family f
    JOIN dbos.workflow_status c ON c.parent_workflow_id = f.workflow_uuid WHERE c.status = 'CANCELLED'
) CYCLE workflow_uuid SET is_known USING path
, due AS (SELECT workflow_uuid, level FROM family WHERE updated_at <= %(before_ms)s AND NOT is_known)
SELECT workflow_uuid AS workflow_id FROM due WHERE level = (SELECT max(level) FROM due) LIMIT %(limit)s

-- name: names_to_resume
-- Returns the names of the workflows that a resume of a family puts back.
WITH RECURSIVE family AS (
    SELECT w.workflow_uuid, w.name, w.application_name FROM dbos.workflow_status w WHERE w.workflow_uuid = %(workflow_id)s
    UNION
    SELECT c.workflow_uuid, c.name, c.application_name FROM family f
    JOIN dbos.workflow_status c ON c.parent_workflow_id = f.workflow_uuid WHERE c.status = 'CANCELLED')
SELECT DISTINCT name, application_name AS application FROM family

-- name: resumable
-- Returns the names and stored queues of workflows.
SELECT w.workflow_uuid AS workflow_id, w.name, w.application_name AS application,
       coalesce(c.queue_name, w.queue_name) AS queue_name
FROM dbos.workflow_status w LEFT JOIN ops.crashes c ON c.workflow_id = w.workflow_uuid
WHERE w.workflow_uuid = ANY (%(workflow_ids)s)

-- name: still_running
-- Returns a cancelled execution that a resume waits for: of the workflow or of one below it.
WITH RECURSIVE family AS (
    SELECT w.workflow_uuid FROM dbos.workflow_status w WHERE w.workflow_uuid = %(workflow_id)s
    UNION
    SELECT c.workflow_uuid FROM family f
    JOIN dbos.workflow_status c ON c.parent_workflow_id = f.workflow_uuid WHERE c.status = 'CANCELLED')
SELECT x.workflow_id, x.executor_id FROM family f JOIN ops.revoked x ON x.workflow_id = f.workflow_uuid
JOIN ops.executors e USING (executor_id) WHERE e.state IN ('live', 'draining') LIMIT 1

-- name: resume_work
-- Resumes as DBOS does (SystemDatabase.resume_workflows, 3.4.0; a contract test compares the two), and resets the counts
-- of crashes. A workflow whose cancelled execution still runs in a live process is left for later.
WITH mine AS (
    SELECT w.workflow_uuid, r.queue_name
    FROM unnest(%(workflow_ids)s::text[], %(queues)s::text[]) AS r (workflow_id, queue_name)
    JOIN dbos.workflow_status w ON w.workflow_uuid = r.workflow_id
    WHERE w.status IN ('CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED') AND w.updated_at <= %(before_ms)s
      AND NOT EXISTS (SELECT FROM ops.revoked x JOIN ops.executors e USING (executor_id)
                      WHERE x.workflow_id = w.workflow_uuid AND e.state IN ('live', 'draining'))
    ORDER BY w.workflow_uuid FOR NO KEY UPDATE OF w SKIP LOCKED
), forgotten AS (
    UPDATE ops.crashes c SET crashes = 0, steps_recorded = 0, strays = 0, stray_steps = 0, trial_xid = NULL,
        parked_at = NULL, queue_name = m.queue_name
    FROM mine m WHERE c.workflow_id = m.workflow_uuid)
UPDATE dbos.workflow_status w
SET status = 'ENQUEUED', owner_xid = NULL, queue_name = m.queue_name, recovery_attempts = 0,
    workflow_deadline_epoch_ms = NULL, deduplication_id = NULL, started_at_epoch_ms = NULL, completed_at = NULL,
    updated_at = (extract(epoch FROM clock_timestamp()) * 1000)::bigint
FROM mine m WHERE w.workflow_uuid = m.workflow_uuid
RETURNING w.workflow_uuid AS workflow_id

-- name: operation_near
-- Returns an unfinished operation of these kinds on a workflow above or below this one, or on itself. Goes up from each
-- of the few that are under way, and from the workflow: a family may be large, the way up is short.
WITH RECURSIVE up AS (
    SELECT o.operation_id, o.kind, o.arguments ->> 'workflow_id' AS start, o.arguments ->> 'workflow_id' AS workflow_id
    FROM ops.operations o WHERE o.ended_at IS NULL AND o.kind = ANY (%(kinds)s) AND o.operation_id <> %(but)s
    UNION
    SELECT NULL, NULL, NULL, %(workflow_id)s
    UNION
    SELECT u.operation_id, u.kind, u.start, w.parent_workflow_id
    FROM up u JOIN dbos.workflow_status w ON w.workflow_uuid = u.workflow_id WHERE w.parent_workflow_id IS NOT NULL)
SELECT u.operation_id, u.kind, u.start AS workflow_id FROM up u
WHERE u.operation_id IS NOT NULL
  AND (u.workflow_id = %(workflow_id)s OR u.start IN (SELECT m.workflow_id FROM up m WHERE m.operation_id IS NULL))
LIMIT 1

-- name: parent_that_needs
-- Returns the parent of a workflow if it may still read the result: it is unfinished, or can be resumed.
SELECT p.workflow_uuid AS workflow_id, p.status
FROM dbos.workflow_status w JOIN dbos.workflow_status p ON p.workflow_uuid = w.parent_workflow_id
WHERE w.workflow_uuid = %(workflow_id)s AND p.status NOT IN ('SUCCESS', 'ERROR')

-- name: kept_from_deletion
-- Returns what keeps a workflow, or one below it (`children`), from being deleted: it is unfinished, or its cancelled
-- execution still runs in a live process.
WITH RECURSIVE family AS (
    SELECT w.workflow_uuid, w.status FROM dbos.workflow_status w WHERE w.workflow_uuid = %(workflow_id)s
    UNION
    SELECT c.workflow_uuid, c.status
    FROM family f JOIN dbos.workflow_status c ON c.parent_workflow_id = f.workflow_uuid WHERE %(children)s)
SELECT f.workflow_uuid AS workflow_id, f.status, x.executor_id
FROM family f LEFT JOIN (
    SELECT r.workflow_id, r.executor_id FROM ops.revoked r JOIN ops.executors e USING (executor_id)
    WHERE e.state IN ('live', 'draining')) AS x ON x.workflow_id = f.workflow_uuid
WHERE x.executor_id IS NOT NULL
   OR f.status NOT IN ('SUCCESS', 'ERROR', 'CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED')
ORDER BY x.executor_id NULLS FIRST LIMIT 1

-- name: scan_delete
-- Returns the lowest level of a family, or the workflow alone. A parent is deleted after all below it, so that what is
-- left of a family is always found from its top.
WITH RECURSIVE family AS (
    SELECT w.workflow_uuid, 0 AS level FROM dbos.workflow_status w WHERE w.workflow_uuid = %(workflow_id)s
    UNION
    SELECT c.workflow_uuid, f.level + 1
    FROM family f JOIN dbos.workflow_status c ON c.parent_workflow_id = f.workflow_uuid WHERE %(children)s
) CYCLE workflow_uuid SET is_known USING path
, known AS (SELECT workflow_uuid, level FROM family WHERE NOT is_known)
SELECT workflow_uuid AS workflow_id FROM known WHERE level = (SELECT max(level) FROM known) LIMIT %(limit)s

-- name: delete_work
-- Deletes those of these workflows that may be deleted (024_delete.sql) and whose cancelled execution, if there is one,
-- runs in no live process any more.
SELECT workflow_id FROM ops.delete_ended(ARRAY(
    SELECT given.id FROM unnest(%(workflow_ids)s::text[]) AS given (id)
    WHERE NOT EXISTS (SELECT FROM ops.revoked x JOIN ops.executors e USING (executor_id)
                      WHERE x.workflow_id = given.id AND e.state IN ('live', 'draining')))) AS workflow_id
