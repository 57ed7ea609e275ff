-- Has this user the flag? The same as core/evaluation.py, for services that ask the database.

-- The bodies below that begin with RETURN are bound when they are made, to this path and not to their callers'.
SET LOCAL search_path = pg_catalog, pg_temp;

-- STABLE as convert_to is, or the planner would not put the bodies in place of the calls, which is several times faster.
CREATE OR REPLACE FUNCTION feature_rollout.flag_bucket(salt text, user_id text) RETURNS integer
  LANGUAGE sql STABLE PARALLEL SAFE
  RETURN ((('x' || encode(substr(sha256(convert_to(salt || ':' || user_id, 'UTF8')), 1, 4), 'hex'))::bit(32)::bigint
    * 10000) >> 32)::integer;
COMMENT ON FUNCTION feature_rollout.flag_bucket(text, text) IS 'The bucket of a user, 0 to 9999; the salt is the flag''s name. NULL without a user.';

-- What cannot be read counts as the operator counts it: at the widest that a service may read from it, so a NULL is
-- enabled, 100 % or everyone, and a NULL among groups a group that nobody is in, as is the empty name.
CREATE OR REPLACE FUNCTION feature_rollout.has_flag(
  enabled boolean, percentage numeric, groups text[], flag text, user_id text, user_groups text[]
) RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
  RETURN CASE
    WHEN enabled IS FALSE THEN false
    WHEN cardinality(groups) > 0 AND NOT coalesce(
      CASE array_ndims(groups) WHEN 1 THEN array_remove(groups, '') COLLATE "C" && user_groups END, false) THEN false
    -- NaN is greater than all numbers.
    WHEN percentage IS NULL OR percentage >= 100 OR percentage = '-Infinity' THEN true
    WHEN percentage <= 0 OR user_id IS NULL THEN false
    ELSE feature_rollout.flag_bucket(flag, user_id) < percentage * 100
  END;
COMMENT ON FUNCTION feature_rollout.has_flag(boolean, numeric, text[], text, text, text[]) IS 'Whether a row of a flag table gives the flag to a user of these groups. Reads no table.';
-- The body of flag_enabled for a table. The percentage goes by its text, so that no digit of a float is lost.
CREATE OR REPLACE FUNCTION feature_rollout.flag_enabled_body(
  table_schema text, table_name text, name text, enabled text, percentage text, groups text
) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN format(
    'BEGIN RETURN EXISTS (SELECT FROM %I.%I f WHERE f.%I = $1 AND '
    'feature_rollout.has_flag(f.%I, f.%I::text::numeric, f.%I::text[], $1, $2, $3)); END',
    table_schema, table_name, name, enabled, percentage, groups);
COMMENT ON FUNCTION feature_rollout.flag_enabled_body(text, text, text, text, text, text) IS 'What flag_enabled does when it reads this table.';

-- Which table flag_enabled reads: 'this' one, this one with 'columns' of other names, 'another', or NULL: it is missing.
CREATE OR REPLACE FUNCTION feature_rollout.flag_enabled_reads(
  table_schema text, table_name text, name text, enabled text, percentage text, groups text
) RETURNS text LANGUAGE sql STABLE RETURN (
  SELECT CASE
      WHEN p.prosrc = feature_rollout.flag_enabled_body(table_schema, table_name, name, enabled, percentage, groups)
        THEN 'this'
      WHEN starts_with(p.prosrc, format('BEGIN RETURN EXISTS (SELECT FROM %I.%I f ', table_schema, table_name))
        THEN 'columns'
      ELSE 'another' END
  FROM pg_proc p WHERE p.oid = to_regprocedure('feature_rollout.flag_enabled(text, text, text[])'));
COMMENT ON FUNCTION feature_rollout.flag_enabled_reads(text, text, text, text, text, text) IS 'Which flag table flag_enabled reads.';

-- Makes feature_rollout.flag_enabled for a table, unless it reads another: services must not be moved silently.
-- The table need not be there yet, and may be changed and dropped afterwards; nothing depends on it.
CREATE OR REPLACE FUNCTION feature_rollout.serve(
  table_schema text, table_name text, name text, enabled text, percentage text, groups text
) RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  reads text := feature_rollout.flag_enabled_reads(table_schema, table_name, name, enabled, percentage, groups);
BEGIN
  IF reads IN ('this', 'another') THEN
    RETURN CASE reads WHEN 'this' THEN 'unchanged' ELSE 'taken' END;
  END IF;
  -- It runs with the rights of who calls it: who may not read the table gets no answer from it.
  EXECUTE format(
    'CREATE OR REPLACE FUNCTION feature_rollout.flag_enabled(flag text, user_id text, groups text[] DEFAULT ''{}'') '
    'RETURNS boolean LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS %L',
    feature_rollout.flag_enabled_body(table_schema, table_name, name, enabled, percentage, groups));
  GRANT EXECUTE ON FUNCTION feature_rollout.flag_enabled(text, text, text[]) TO PUBLIC;
  COMMENT ON FUNCTION feature_rollout.flag_enabled(text, text, text[]) IS 'Whether a user of these groups has a flag; false when there is no such flag.';
  RETURN 'served';
END
$$;
COMMENT ON FUNCTION feature_rollout.serve(text, text, text, text, text, text) IS 'Makes flag_enabled for a flag table, with the rights of the caller: served, unchanged, or taken by another table.';

-- None of these lends a right or reads a row; the schema says who may call them, also where EXECUTE is not PUBLIC's by
-- default. flag_enabled is given to PUBLIC when it is made.
GRANT EXECUTE ON FUNCTION
  feature_rollout.flag_bucket(text, text),
  feature_rollout.has_flag(boolean, numeric, text[], text, text, text[]),
  feature_rollout.flag_enabled_body(text, text, text, text, text, text),
  feature_rollout.flag_enabled_reads(text, text, text, text, text, text)
TO PUBLIC;

SET LOCAL search_path TO DEFAULT;
