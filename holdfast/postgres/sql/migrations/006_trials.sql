-- The claim (its owner_xid) whose trial has really started, alone: only a death of that run parks.
ALTER TABLE ops.crashes ADD COLUMN trial_xid text;
