-- What a verdict on an executor needs to know of its queues, so that executors of any application can judge it.
-- NULL: registered by older code.
ALTER TABLE ops.executors ADD COLUMN suspects_queue text, ADD COLUMN trials_queue text, ADD COLUMN leaf_queues text[];
CREATE INDEX executors_application ON ops.executors (application);

-- How often a workflow was released because it did not run where it was claimed, without a new step in between.
ALTER TABLE ops.crashes ADD COLUMN strays integer NOT NULL DEFAULT 0, ADD COLUMN stray_steps integer NOT NULL DEFAULT 0;
