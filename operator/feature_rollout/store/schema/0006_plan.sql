-- The last good plan of each rollout: a manifest that is broken while the operator starts must not leave it unguarded.

CREATE TABLE IF NOT EXISTS feature_rollout.plan (
  key        text PRIMARY KEY,
  uid        text NOT NULL,
  made_of    jsonb NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE feature_rollout.plan IS 'What the last good plan of a rollout was made of, key as in ledger: the specs of the rollout and of the objects that it names, without any Secret. It is read when the manifest is broken at the operator''s start. It may be deleted: the next good manifest writes it again.';
