from ipaddress import ip_network

import pytest
from pydantic import ValidationError

from feature_rollout.notify import apprise
from feature_rollout.runtime.settings import Settings, signing_key


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"FEATUREROLLOUT_{name.upper()}", raising=False)


def test_the_defaults_need_nothing() -> None:
    settings = Settings()
    assert settings.watch_namespaces == ()
    assert settings.http_port == 8080
    assert settings.kubeconfig is None


def test_everything_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATUREROLLOUT_WATCH_NAMESPACES", "shop, billing,,shop")
    monkeypatch.setenv("FEATUREROLLOUT_HTTP_PORT", "0")
    monkeypatch.setenv("FEATUREROLLOUT_LOG_LEVEL", "debug")
    monkeypatch.setenv("FEATUREROLLOUT_LOG_FORMAT", "json")
    monkeypatch.setenv("FEATUREROLLOUT_KUBECONFIG", "")
    monkeypatch.setenv("FEATUREROLLOUT_DRIFT_POLL_SECONDS", "0.5")
    settings = Settings()
    assert settings.watch_namespaces == ("shop", "billing")
    assert settings.http_port == 0
    assert settings.log_level == "DEBUG"
    assert settings.log_format == "json"
    assert settings.kubeconfig is None
    assert settings.drift_poll_seconds == 0.5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WATCH_NAMESPACES", "shop-*"),
        ("WATCH_NAMESPACES", "!shop"),
        ("HTTP_PORT", "70000"),
        ("WORKERS", "0"),
        ("DRIFT_POLL_SECONDS", "nan"),
        ("LOG_FORMAT", "xml"),
        ("LEASE_NAME", "Operator"),
        ("LEASE_NAMESPACE", "kube/system"),
        ("LEASE_DURATION_SECONDS", "1"),
        ("LEASE_RENEW_DEADLINE_SECONDS", "15"),
        ("LEASE_RENEW_DEADLINE_SECONDS", "nan"),
        ("LEASE_RETRY_SECONDS", "5.1"),
        ("SHARDS", "0"),
        ("SHARDS", "33"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"FEATUREROLLOUT_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


def test_shards_need_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATUREROLLOUT_SHARDS", "4")
    with pytest.raises(ValidationError, match="4 shards need Leases: set FEATUREROLLOUT_LEASE_NAME"):
        Settings()
    monkeypatch.setenv("FEATUREROLLOUT_LEASE_NAME", "operator")
    assert Settings().shards == 4


def test_addresses_are_denied_by_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ip_network("169.254.0.0/16") in Settings().denied_addresses
    assert ip_network("127.0.0.0/8") in Settings().denied_addresses
    monkeypatch.setenv("FEATUREROLLOUT_DENIED_ADDRESSES", "10.0.0.0/8, fe80::/10")
    assert Settings().denied_addresses == (ip_network("10.0.0.0/8"), ip_network("fe80::/10"))
    monkeypatch.setenv("FEATUREROLLOUT_DENIED_ADDRESSES", "")
    assert Settings().denied_addresses == ()
    monkeypatch.setenv("FEATUREROLLOUT_DENIED_ADDRESSES", "10.0.0.1/8")
    with pytest.raises(ValidationError, match=r"'10.0.0.1/8' is not a network such as 10.0.0.0/8"):
        Settings()


GOOD = {
    "WEBHOOK_URL": "https://hooks.example.com/t0psecret",
    "WEBHOOK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "SLACK_TOKEN": "xoxb-s3cret",
    "SLACK_CHANNEL": "#deployments",
    "PAGERDUTY_ROUTING_KEY": "r" * 32,
}


def test_nobody_is_notified_by_default() -> None:
    settings = Settings()
    assert (settings.webhook_url, settings.slack_token, settings.pagerduty_routing_key) == (None, None, None)
    assert settings.slack_address.startswith("https://slack.com/")


def test_notifications(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GOOD.items():
        monkeypatch.setenv(f"FEATUREROLLOUT_{name}", value)
    settings = Settings()
    assert settings.webhook_secret is not None
    assert len(signing_key(settings.webhook_secret)) == 24
    for secret in ("t0psecret", "MfKQ9r8", "s3cret", "rrrr"):
        assert secret not in repr(settings)
    # As from a Secret that has not been filled in.
    for name in GOOD:
        monkeypatch.setenv(f"FEATUREROLLOUT_{name}", "")
    assert Settings().webhook_url is None


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("WEBHOOK_URL", "hooks.example.com", "is not an address"),
        ("WEBHOOK_URL", "file:///etc/passwd", "is not an address"),
        ("WEBHOOK_SECRET", "", "needed with FEATUREROLLOUT_WEBHOOK_URL"),
        ("WEBHOOK_SECRET", "t0psecret!", "not Base64"),
        ("WEBHOOK_SECRET", "dG9vc2hvcnQ=", "fewer than 24 bytes"),
        ("SLACK_CHANNEL", "", "needed with FEATUREROLLOUT_SLACK_TOKEN"),
        ("SLACK_CHANNEL", "@ceo", "not a channel"),
        ("SLACK_ADDRESS", "http://slack.com/api", "not an https address"),
        ("PAGERDUTY_ADDRESS", "http://events.pagerduty.com", "not an https address"),
        ("APPRISE_URLS", "json://localhost/a t0psecret://user:t0psecret@host", "URL 2 of 2: it is no URL that Apprise"),
        ("MESSAGE_TEMPLATE", "{{mesage}}", "{{mesage}} is none of message"),
        ("APPRISE_URLS", "json://localhost/t0psecret " * 9, "there are 9 URLs, and at most 8"),
    ],
)
def test_a_notification_that_makes_no_sense_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    for known, good in GOOD.items():
        monkeypatch.setenv(f"FEATUREROLLOUT_{known}", good)
    monkeypatch.setenv(f"FEATUREROLLOUT_{name}", value)
    with pytest.raises(ValidationError, match=says) as caught:
        Settings()
    assert [error["loc"] for error in caught.value.errors()] == [(name.lower(),)]
    assert "t0psecret" not in str(caught.value)


def test_what_to_do_without_apprise_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apprise.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("FEATUREROLLOUT_APPRISE_URLS", "json://localhost/t0psecret")
    with pytest.raises(ValidationError) as caught:
        Settings()
    (error,) = caught.value.errors(include_input=False)
    assert "Apprise is not installed: pip install 'feature-rollout-operator[apprise]'" in error["msg"]
