-- What was released as waiting goes on to wait, most likely: until its next execution tells so itself, or begins a
-- step, its row stays with an empty owner_xid. This counts how often in a row it was released so.
ALTER TABLE ops.waits ADD COLUMN releases int NOT NULL DEFAULT 0;
