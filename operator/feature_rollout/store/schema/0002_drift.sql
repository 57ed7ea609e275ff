-- Changes of flag rows by others, recorded with who made them, where the table's owner allows a trigger on it.
-- The audit from the baseline on gives the row: `kind` Manual is what somebody else has done to it.

ALTER TABLE feature_rollout.audit DROP CONSTRAINT IF EXISTS audit_kind_check;
ALTER TABLE feature_rollout.audit ADD CONSTRAINT audit_kind_check CHECK (kind IN ('Raise', 'Lower', 'Manual'));
COMMENT ON TABLE feature_rollout.audit IS 'Every change of a flag row by the operator, with what it was decided on, and every change by others that was recorded by the trigger or observed. Rows are added and never changed.';

-- Rollouts that were open before this version are taken to have been so always.
ALTER TABLE feature_rollout.ledger ADD COLUMN IF NOT EXISTS opened_at timestamptz NOT NULL DEFAULT '-infinity';
ALTER TABLE feature_rollout.ledger ALTER COLUMN opened_at SET DEFAULT clock_timestamp();
COMMENT ON COLUMN feature_rollout.ledger.opened_at IS 'Since when the audit of the flags is that of this rollout.';

-- A row as the audit has it: what services may read from it at the widest, as the operator sees it too.
CREATE OR REPLACE FUNCTION feature_rollout.exposure(enabled text, percentage text, groups jsonb) RETURNS jsonb
  LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
  RETURN jsonb_build_object(
    'enabled', coalesce(enabled::boolean, true),
    'percentage', trim_scale(least(greatest(coalesce(percentage::numeric, 100), 0), 100))::text,
    'groups', (
      SELECT coalesce(jsonb_agg(g.name ORDER BY g.name COLLATE "C"), '[]')
      FROM (SELECT DISTINCT coalesce(e.name, '') AS name
            FROM jsonb_array_elements_text(CASE jsonb_typeof(groups) WHEN 'array' THEN groups ELSE '[]' END) e (name)) g
    )
  );
COMMENT ON FUNCTION feature_rollout.exposure(text, text, jsonb) IS 'The columns of a flag row as the audit has them.';

-- The trigger's arguments are the names of four columns: name, enabled, percentage, groups.
-- It runs as the owner of this schema, since whoever changes a flag need have no right here, and whatever goes wrong
-- in it must not make their UPDATE fail or wait: what it misses, the operator sees when it reads the row.
CREATE OR REPLACE FUNCTION feature_rollout.record_change() RETURNS trigger
  LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
  SET lock_timeout = '200ms' AS $$
DECLARE
  operation text := coalesce(current_setting('feature_rollout.operation', true), '');
  before    jsonb := to_jsonb(OLD);
  after     jsonb := to_jsonb(NEW);
  changed   text := before ->> TG_ARGV[0];
  assumed   text := current_setting('role', true);
  rollout   record;
BEGIN
  SELECT l.key, l.uid, l.epoch INTO rollout
  FROM feature_rollout.ownership o JOIN feature_rollout.ledger l ON l.key = o.owner
  WHERE o.table_schema = TG_TABLE_SCHEMA AND o.table_name = TG_TABLE_NAME AND o.flag = changed;
  IF NOT FOUND OR starts_with(operation, rollout.key || '@') THEN
    RETURN NULL; -- nobody's flag, or its own rollout at work, which writes the audit itself
  END IF;
  before := feature_rollout.exposure(before ->> TG_ARGV[1], before ->> TG_ARGV[2], before -> TG_ARGV[3]);
  after := feature_rollout.exposure(after ->> TG_ARGV[1], after ->> TG_ARGV[2], after -> TG_ARGV[3]);
  IF before = after THEN
    RETURN NULL;
  END IF;
  -- Another verb of the operator, as `kill` is, writes its own audit; the rollout is told of it all the same.
  IF operation = '' THEN
    INSERT INTO feature_rollout.audit (operation_id, ledger_key, table_schema, table_name, flag, before, after, kind,
      actor, epoch, uid, generation, stage, reason, message, evidence)
    VALUES ('manual@' || gen_random_uuid(), rollout.key, TG_TABLE_SCHEMA, TG_TABLE_NAME, changed, before, after,
      'Manual', session_user || CASE WHEN assumed IN ('none', session_user) THEN '' ELSE ' as ' || assumed END,
      rollout.epoch, rollout.uid, 0, '', 'ManualChange', 'Changed by somebody else, recorded by the trigger.',
      jsonb_build_object('applicationName', current_setting('application_name', true)));
  END IF;
  -- A COMMIT fails when the server's queue is full, which nothing here could catch.
  IF pg_notification_queue_usage() < 0.5 THEN
    PERFORM pg_notify('feature_rollout_drift', left(changed, 1900));
  END IF;
  RETURN NULL;
EXCEPTION WHEN OTHERS THEN
  RETURN NULL;
END
$$;
COMMENT ON FUNCTION feature_rollout.record_change() IS 'Records a change of a flag by somebody else and tells the operator; never makes the change fail.';
-- Nobody but the owner needs it: a trigger runs without this right. Whoever else owns a flag table is given it.
REVOKE ALL ON FUNCTION feature_rollout.record_change() FROM PUBLIC;

-- Makes the trigger on a flag table, or says why it cannot be: 'watched', 'unchanged', 'missing', 'refused' or 'busy'.
CREATE OR REPLACE FUNCTION feature_rollout.watch(
  table_schema text, table_name text, name text, enabled text, percentage text, groups text
) RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms' AS $$
DECLARE
  flags oid := to_regclass(format('%I.%I', table_schema, table_name));
BEGIN
  IF flags IS NULL THEN
    RETURN 'missing';
  END IF;
  IF feature_rollout.is_watched(table_schema, table_name, name, enabled, percentage, groups) THEN
    RETURN 'unchanged';
  END IF;
  EXECUTE format(
    'CREATE OR REPLACE TRIGGER feature_rollout_drift AFTER UPDATE ON %1$s FOR EACH ROW '
    'WHEN (OLD.%3$I IS DISTINCT FROM NEW.%3$I OR OLD.%4$I IS DISTINCT FROM NEW.%4$I '
    'OR OLD.%5$I IS DISTINCT FROM NEW.%5$I) '
    'EXECUTE FUNCTION feature_rollout.record_change(%2$L, %3$L, %4$L, %5$L)',
    flags::regclass, name, enabled, percentage, groups);
  RETURN 'watched';
EXCEPTION
  WHEN lock_not_available THEN
    RETURN 'busy'; -- services wait behind whoever waits for a table
  WHEN OTHERS THEN
    RETURN 'refused';
END
$$;
COMMENT ON FUNCTION feature_rollout.watch(text, text, text, text, text, text) IS 'Makes the trigger that records changes of a flag table by others, with the rights of the caller.';

-- Whether the trigger is there, and enabled, for these columns.
CREATE OR REPLACE FUNCTION feature_rollout.is_watched(
  table_schema text, table_name text, name text, enabled text, percentage text, groups text
) RETURNS boolean LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp RETURN EXISTS (
  SELECT FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = table_schema AND c.relname = table_name AND t.tgname = 'feature_rollout_drift'
    AND t.tgenabled IN ('O', 'A')
    AND t.tgargs = (SELECT string_agg(convert_to(a.name, getdatabaseencoding()) || '\x00', '' ORDER BY a.position)
                    FROM unnest(ARRAY[name, enabled, percentage, groups]) WITH ORDINALITY a (name, position))
);
COMMENT ON FUNCTION feature_rollout.is_watched(text, text, text, text, text, text) IS 'Whether changes of a flag table by others are recorded by the trigger.';
