-- The operator's bookkeeping. Every statement may be run twice, so that people can paste the printed script again.

CREATE SCHEMA IF NOT EXISTS feature_rollout;
COMMENT ON SCHEMA feature_rollout IS 'Bookkeeping of the feature rollout operator: who owns a flag, how far its rollout is, what was written and why.';

CREATE TABLE IF NOT EXISTS feature_rollout.migration (
  version    integer PRIMARY KEY,
  name       text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE feature_rollout.migration IS 'The numbered changes of this schema that were applied.';

CREATE TABLE IF NOT EXISTS feature_rollout.ledger (
  key          text PRIMARY KEY,
  uid          text NOT NULL,
  epoch        bigint NOT NULL CHECK (epoch >= 0),
  sequence     bigint NOT NULL CHECK (sequence >= 0),
  spec_hash    text NOT NULL,
  plan_hash    text NOT NULL,
  attempt      integer NOT NULL DEFAULT 1 CHECK (attempt >= 1),
  stage        integer NOT NULL DEFAULT -1 CHECK (stage >= -1),
  entered_at   timestamptz,
  baked_s      double precision NOT NULL DEFAULT 0 CHECK (baked_s >= 0),
  executed     jsonb NOT NULL DEFAULT '[]',
  baseline     jsonb NOT NULL DEFAULT '{}',
  written      jsonb NOT NULL DEFAULT '{}',
  latch        jsonb,
  acted        text[] NOT NULL DEFAULT '{}',
  completed_at timestamptz,
  on_delete    text NOT NULL,
  closed_at    timestamptz,
  updated_at   timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE feature_rollout.ledger IS 'One row a rollout, key cluster/namespace/name: how far it is. epoch and sequence are the fence of every write that raises; updated_at is when its writer last gave a sign of life.';

CREATE TABLE IF NOT EXISTS feature_rollout.ownership (
  table_schema      text NOT NULL,
  table_name        text NOT NULL,
  flag              text NOT NULL,
  owner             text,
  epoch             bigint NOT NULL DEFAULT 0,
  latch             jsonb,
  latched_spec_hash text,
  updated_at        timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (table_schema, table_name, flag)
);
CREATE INDEX IF NOT EXISTS ownership_owner ON feature_rollout.ownership (owner);
COMMENT ON TABLE feature_rollout.ownership IS 'Which rollout (ledger key) may change a flag; owner is NULL when it was released. epoch and latch outlive the rollout: a flag that was reverted is not raised again by the same plan.';

CREATE TABLE IF NOT EXISTS feature_rollout.audit (
  id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at           timestamptz NOT NULL DEFAULT clock_timestamp(),
  operation_id text NOT NULL,
  ledger_key   text NOT NULL,
  table_schema text NOT NULL,
  table_name   text NOT NULL,
  flag         text NOT NULL,
  before       jsonb NOT NULL,
  after        jsonb NOT NULL,
  kind         text NOT NULL CHECK (kind IN ('Raise', 'Lower')),
  actor        text NOT NULL,
  epoch        bigint NOT NULL,
  uid          text NOT NULL,
  generation   bigint NOT NULL,
  stage        text NOT NULL,
  reason       text NOT NULL,
  message      text NOT NULL,
  evidence     jsonb NOT NULL DEFAULT '{}',
  UNIQUE (operation_id, flag)
);
CREATE INDEX IF NOT EXISTS audit_flag ON feature_rollout.audit (flag, id);
CREATE INDEX IF NOT EXISTS audit_ledger_key ON feature_rollout.audit (ledger_key, id);
COMMENT ON TABLE feature_rollout.audit IS 'Every change of a flag row by the operator, with what it was decided on. Rows are added and never changed.';

CREATE TABLE IF NOT EXISTS feature_rollout.evidence (
  key        text PRIMARY KEY,
  epoch      bigint NOT NULL,
  attempt    integer NOT NULL,
  state      jsonb NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE feature_rollout.evidence IS 'What the guards of a rollout have measured so far, key as in ledger. It may be deleted: measuring then starts again.';

CREATE OR REPLACE FUNCTION feature_rollout.refuse_change() RETURNS trigger
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RAISE EXCEPTION 'feature_rollout.audit is append-only' USING ERRCODE = 'insufficient_privilege';
END
$$;
COMMENT ON FUNCTION feature_rollout.refuse_change() IS 'Keeps the audit append-only, for its owner too.';

DROP TRIGGER IF EXISTS append_only ON feature_rollout.audit;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON feature_rollout.audit
  FOR EACH STATEMENT EXECUTE FUNCTION feature_rollout.refuse_change();
-- ALWAYS: `SET session_replication_role = replica` does not switch it off.
ALTER TABLE feature_rollout.audit ENABLE ALWAYS TRIGGER append_only;
