-- Who is told of the rows of the outbox, and how far that is.

ALTER TABLE feature_rollout.outbox ADD COLUMN IF NOT EXISTS told text[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN feature_rollout.outbox.told IS 'The recipients that are not to be told of it any more.';
ALTER TABLE feature_rollout.outbox ADD COLUMN IF NOT EXISTS given_up jsonb NOT NULL DEFAULT '{}';
COMMENT ON COLUMN feature_rollout.outbox.given_up IS 'The recipients that could not be told of it, each with what went wrong last.';
COMMENT ON TABLE feature_rollout.outbox IS 'One row a transition of a rollout, in the transaction that made it; kind is what was done. A row goes when every recipient was told of it; at most the newest 10,000 of the last 30 days are kept.';

CREATE TABLE IF NOT EXISTS feature_rollout.recipient (
  name    text PRIMARY KEY,
  cluster text NOT NULL,
  since   timestamptz NOT NULL,
  seen_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE feature_rollout.recipient IS 'What the operators of each cluster are told to notify: of rows of the outbox that are not older than since. seen_at is when one of them last gave a sign of life.';

CREATE TABLE IF NOT EXISTS feature_rollout.delivery (
  recipient    text NOT NULL,
  ledger_key   text NOT NULL,
  lease        text NOT NULL,
  leased_until timestamptz NOT NULL,
  attempts     integer NOT NULL DEFAULT 0,
  due_at       timestamptz NOT NULL DEFAULT '-infinity',
  problem      text NOT NULL DEFAULT '',
  memory       jsonb NOT NULL DEFAULT '{}',
  PRIMARY KEY (recipient, ledger_key)
);
COMMENT ON TABLE feature_rollout.delivery IS 'One row a recipient and rollout, whose transitions are told one after the other, by whoever holds the lease. attempts and problem are those of the transition that is next, memory is what the recipient keeps of the rollout, such as its message in Slack. A row may be deleted: a new message then begins.';

-- A kill is known to no cluster: everybody is told of it.
CREATE OR REPLACE VIEW feature_rollout.waiting AS
  SELECT r.name AS recipient, r.seen_at, o.id, o.at, o.operation_id, o.ledger_key, o.kind, o.payload
  FROM feature_rollout.outbox o JOIN feature_rollout.recipient r
    ON o.at >= r.since
    AND (o.ledger_key = 'kill' OR substring(o.ledger_key FROM '^(.*)/[^/]*/[^/]*$') = r.cluster)
    AND NOT r.name = ANY (o.told);
COMMENT ON VIEW feature_rollout.waiting IS 'What each recipient is still to be told of.';
