-- What a writer may do here. Run after every migration; it may be run at any time.
-- The role belongs to the whole server and its creation may be reserved: then somebody creates it and runs this again.
DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'feature_rollout_writer') THEN
    BEGIN
      CREATE ROLE feature_rollout_writer NOLOGIN;
    EXCEPTION
      WHEN insufficient_privilege THEN
        RAISE NOTICE 'role feature_rollout_writer must be created by somebody who may: CREATE ROLE feature_rollout_writer NOLOGIN';
      WHEN duplicate_object OR unique_violation THEN
        NULL; -- another session was faster
    END;
  END IF;
  IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'feature_rollout_writer') THEN
    REVOKE ALL ON ALL TABLES IN SCHEMA feature_rollout FROM PUBLIC, feature_rollout_writer;
    GRANT USAGE ON SCHEMA feature_rollout TO feature_rollout_writer;
    GRANT SELECT ON feature_rollout.migration TO feature_rollout_writer;
    GRANT SELECT, INSERT, UPDATE ON feature_rollout.ledger, feature_rollout.ownership, feature_rollout.plan TO feature_rollout_writer;
    GRANT SELECT, INSERT ON feature_rollout.audit, feature_rollout.action TO feature_rollout_writer;
    -- What everybody was told of goes, and so does what is kept of a rollout that has ended.
    GRANT SELECT, INSERT, UPDATE, DELETE ON feature_rollout.outbox, feature_rollout.delivery TO feature_rollout_writer;
    GRANT SELECT, INSERT, UPDATE ON feature_rollout.recipient TO feature_rollout_writer;
    GRANT SELECT ON feature_rollout.waiting TO feature_rollout_writer;
    -- Evidence is measured again when it is gone, and goes with the attempt that it belongs to.
    GRANT SELECT, INSERT, UPDATE, DELETE ON feature_rollout.evidence TO feature_rollout_writer;
  END IF;
END
$$;
