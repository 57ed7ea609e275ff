-- What people and other systems are still to be told of, written with what it tells of.

CREATE TABLE IF NOT EXISTS feature_rollout.outbox (
  id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at           timestamptz NOT NULL DEFAULT clock_timestamp(),
  operation_id text NOT NULL,
  ledger_key   text NOT NULL,
  kind         text NOT NULL,
  payload      jsonb NOT NULL,
  UNIQUE (operation_id, kind)
);
COMMENT ON TABLE feature_rollout.outbox IS 'One row a transition of a rollout, in the transaction that made it; kind is what was done. Whoever delivers a row deletes it; the operator keeps the newest 10,000 of the last 30 days.';

-- `Released`: a flag was given up by hand. Its row is not changed, so before and after are alike.
ALTER TABLE feature_rollout.audit DROP CONSTRAINT IF EXISTS audit_kind_check;
ALTER TABLE feature_rollout.audit ADD CONSTRAINT audit_kind_check CHECK (kind IN ('Raise', 'Lower', 'Manual', 'Released'));

ALTER TABLE feature_rollout.ownership ADD COLUMN IF NOT EXISTS killed jsonb;
COMMENT ON COLUMN feature_rollout.ownership.killed IS 'By whom, when and why the flag was killed, and lifted since; until then no rollout enables it.';
