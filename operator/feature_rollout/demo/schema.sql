-- The notification system's own tables, as its migrations leave them, and the three roles of the operator.
CREATE TABLE notifications (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id text NOT NULL,
    delivery_status text NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE INDEX ON notifications (created_at);

CREATE TABLE feature_flag_usage (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    flag_name text NOT NULL,
    user_id text NOT NULL,
    enabled boolean NOT NULL,
    "timestamp" timestamptz NOT NULL
);
CREATE INDEX ON feature_flag_usage (flag_name, "timestamp");

CREATE TABLE feature_flags (
    name text PRIMARY KEY,
    description text NOT NULL DEFAULT '',
    enabled boolean NOT NULL DEFAULT false,
    rollout_percentage integer NOT NULL DEFAULT 0 CHECK (rollout_percentage BETWEEN 0 AND 100),
    user_groups text[] NOT NULL DEFAULT '{}'
);
INSERT INTO feature_flags (name) VALUES
    ('notifications_enhanced_realtime'), ('notifications_intelligent_grouping'),
    ('notifications_optimistic_updates'), ('notifications_advanced_caching'),
    ('notifications_virtual_scrolling'), ('notifications_granular_preferences'),
    ('notifications_quiet_hours'), ('notifications_data_retention'),
    ('notifications_new_bell_ui'), ('notifications_advanced_filtering'), ('notifications_preview_mode');

REVOKE CREATE ON SCHEMA public FROM PUBLIC;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC;

GRANT SELECT, UPDATE (enabled, rollout_percentage, user_groups) ON feature_flags TO {writer};
GRANT SELECT ON notifications, feature_flag_usage TO {reader};
ALTER ROLE {reader} SET default_transaction_read_only = on;
