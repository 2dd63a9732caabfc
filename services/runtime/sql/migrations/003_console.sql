-- The console asks a few times a second who ended lately.
CREATE INDEX executors_ended_at ON ops.executors (ended_at) WHERE ended_at IS NOT NULL;
