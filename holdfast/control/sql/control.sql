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
-- Locks the operation of these kinds that has waited longest (`only`: this one) until the end of the transaction. A
-- process of a newer release carries out the other kinds.
SELECT operation_id, kind, target, arguments, (extract(epoch FROM requested_at) * 1000)::bigint AS requested_ms,
    completed
FROM ops.operations
WHERE ended_at IS NULL AND kind = ANY (%(kinds)s)
  AND (operation_id = %(only)s OR %(only)s::text IS NULL AND due_at <= clock_timestamp())
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
-- Returns a family's cancelled workflows, children first: a parent that runs before its children are back finds them
-- cancelled. What was cancelled after the resume began stays cancelled. The recursion returns a level after the other.
WITH RECURSIVE family AS (
    SELECT w.workflow_uuid, w.updated_at FROM dbos.workflow_status w
    WHERE w.workflow_uuid = %(workflow_id)s AND w.status IN ('CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED')
    UNION
    SELECT c.workflow_uuid, c.updated_at FROM family f
    JOIN dbos.workflow_status c ON c.parent_workflow_id = f.workflow_uuid WHERE c.status = 'CANCELLED')
SELECT f.workflow_uuid AS workflow_id FROM (SELECT *, row_number() OVER () AS number FROM family) AS f
WHERE f.updated_at <= %(before_ms)s ORDER BY f.number DESC LIMIT %(limit)s

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
-- of crashes. A workflow whose cancelled execution still runs in a live process is left for later, and so is what has a
-- cancelled child (except the `root`, in a circle) that is left.
WITH RECURSIVE mine AS (
    SELECT w.workflow_uuid, w.parent_workflow_id, r.queue_name
    FROM unnest(%(workflow_ids)s::text[], %(queues)s::text[]) AS r (workflow_id, queue_name)
    JOIN dbos.workflow_status w ON w.workflow_uuid = r.workflow_id
    WHERE w.status IN ('CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED') AND w.updated_at <= %(before_ms)s
      AND NOT EXISTS (SELECT FROM ops.revoked x JOIN ops.executors e USING (executor_id)
                      WHERE x.workflow_id = w.workflow_uuid AND e.state IN ('live', 'draining'))
    ORDER BY w.workflow_uuid FOR NO KEY UPDATE OF w SKIP LOCKED
), kept AS (
    SELECT m.workflow_uuid, m.parent_workflow_id
    FROM mine m JOIN dbos.workflow_status c ON c.parent_workflow_id = m.workflow_uuid
    WHERE c.status = 'CANCELLED' AND c.updated_at <= %(before_ms)s AND c.workflow_uuid <> %(root)s
      AND c.workflow_uuid NOT IN (SELECT workflow_uuid FROM mine)
    UNION
    SELECT m.workflow_uuid, m.parent_workflow_id
    FROM kept k JOIN mine m ON m.workflow_uuid = k.parent_workflow_id WHERE k.workflow_uuid <> %(root)s
), resumed AS (
    SELECT m.workflow_uuid, m.queue_name FROM mine m WHERE m.workflow_uuid NOT IN (SELECT workflow_uuid FROM kept)
), forgotten AS (
    UPDATE ops.crashes c SET crashes = 0, steps_recorded = 0, strays = 0, stray_steps = 0, trial_xid = NULL,
        parked_at = NULL, queue_name = m.queue_name
    FROM resumed m WHERE c.workflow_id = m.workflow_uuid)
UPDATE dbos.workflow_status w
SET status = 'ENQUEUED', owner_xid = NULL, queue_name = m.queue_name, recovery_attempts = 0,
    workflow_deadline_epoch_ms = NULL, deduplication_id = NULL, started_at_epoch_ms = NULL, completed_at = NULL,
    updated_at = (extract(epoch FROM clock_timestamp()) * 1000)::bigint
FROM resumed m WHERE w.workflow_uuid = m.workflow_uuid
RETURNING w.workflow_uuid AS workflow_id

-- name: lock_families
-- Waits until nothing is just about to go on or to be deleted; holds that up until the end of the transaction.
SELECT pg_advisory_xact_lock(7031, -3)

-- name: share_families
-- Waits for a delete that just begins, and holds up the next one until the end of the transaction.
SELECT pg_advisory_xact_lock_shared(7031, -3)

-- name: lost_results
-- Returns a child that was deleted before its parent recorded the result, though the start is recorded: of one of these
-- workflows, by the steps before `before_step`, or of one of the cancelled workflows below them (`below`).
WITH RECURSIVE family AS (
    SELECT unnest(%(workflow_ids)s::text[]) AS workflow_id
    UNION
    SELECT c.workflow_uuid FROM family f JOIN dbos.workflow_status c ON c.parent_workflow_id = f.workflow_id
    WHERE c.status = 'CANCELLED' AND %(below)s)
SELECT s.workflow_uuid AS workflow_id, s.child_workflow_id AS child, s.function_id AS step
FROM family f JOIN dbos.operation_outputs s ON s.workflow_uuid = f.workflow_id
LEFT JOIN dbos.workflow_status c ON c.workflow_uuid = s.child_workflow_id
WHERE s.child_workflow_id IS NOT NULL AND c.workflow_uuid IS NULL AND s.function_name <> 'DBOS.getResult'
  AND coalesce(s.function_id < %(before_step)s::bigint, true)
  AND NOT EXISTS (
    SELECT FROM dbos.operation_outputs r
    WHERE r.workflow_uuid = s.workflow_uuid AND r.child_workflow_id = s.child_workflow_id
      AND r.function_name = 'DBOS.getResult' AND coalesce(r.function_id < %(before_step)s::bigint, true))
ORDER BY s.workflow_uuid, s.function_id LIMIT 1

-- name: keep_for_fork
-- Keeps a workflow, and the children whose starts are recorded before `start_step`, from being deleted until the end of
-- the transaction. DBOS's fork reads the row first and the steps later, and would do again what is gone by then.
SELECT w.workflow_uuid AS workflow_id FROM dbos.workflow_status w
WHERE w.workflow_uuid = %(workflow_id)s OR w.workflow_uuid IN (
    SELECT s.child_workflow_id FROM dbos.operation_outputs s
    WHERE s.workflow_uuid = %(workflow_id)s AND s.function_id < %(start_step)s)
ORDER BY w.workflow_uuid FOR KEY SHARE

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

-- name: awaited_in_family
-- Returns unfinished work that will read the result of a workflow, or of one below it (`children`).
WITH RECURSIVE family AS (
    SELECT w.workflow_uuid FROM dbos.workflow_status w WHERE w.workflow_uuid = %(workflow_id)s
    UNION
    SELECT c.workflow_uuid
    FROM family f JOIN dbos.workflow_status c ON c.parent_workflow_id = f.workflow_uuid WHERE %(children)s)
SELECT a.child, a.waiter, a.status FROM ops.awaited(ARRAY(SELECT workflow_uuid FROM family)) AS a LIMIT 1

-- name: scan_delete
-- Returns a family, children first, or the workflow alone. The recursion returns a level after the other. A parent is
-- deleted after all below it, so that what is left of a family is always found from its top.
WITH RECURSIVE family AS (
    SELECT w.workflow_uuid FROM dbos.workflow_status w WHERE w.workflow_uuid = %(workflow_id)s
    UNION
    SELECT c.workflow_uuid
    FROM family f JOIN dbos.workflow_status c ON c.parent_workflow_id = f.workflow_uuid WHERE %(children)s)
SELECT f.workflow_uuid AS workflow_id FROM (SELECT *, row_number() OVER () AS number FROM family) AS f
ORDER BY f.number DESC LIMIT %(limit)s

-- name: delete_work
-- Deletes those of these workflows that may be deleted (024_delete.sql) and whose cancelled execution, if there is one,
-- runs in no live process any more.
SELECT workflow_id FROM ops.delete_ended(ARRAY(
    SELECT given.id FROM unnest(%(workflow_ids)s::text[]) AS given (id)
    WHERE NOT EXISTS (SELECT FROM ops.revoked x JOIN ops.executors e USING (executor_id)
                      WHERE x.workflow_id = given.id AND e.state IN ('live', 'draining'))),
    %(root)s::text) AS workflow_id
