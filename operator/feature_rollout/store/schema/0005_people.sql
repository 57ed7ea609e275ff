-- What people have decided (RolloutActions): in force in the ledger row, and each action once, by its UID.

ALTER TABLE feature_rollout.ledger ADD COLUMN IF NOT EXISTS people jsonb NOT NULL DEFAULT '{}';
COMMENT ON COLUMN feature_rollout.ledger.people IS 'What people have decided in this attempt: the pause, approvals, confirmations, a promotion.';

CREATE TABLE IF NOT EXISTS feature_rollout.action (
  uid          text PRIMARY KEY,
  ledger_key   text NOT NULL,
  type         text NOT NULL,
  requested_by text NOT NULL,
  why          text NOT NULL,
  outcome      text NOT NULL CHECK (outcome IN ('Applied', 'Refused', 'Expired')),
  reason       text NOT NULL,
  message      text NOT NULL,
  at           timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS action_ledger_key ON feature_rollout.action (ledger_key, at);
COMMENT ON TABLE feature_rollout.action IS 'What became of each RolloutAction, written in the transaction that carried it out: no action is ever carried out twice. requested_by and why are the person''s, reason and message the operator''s.';
