from ipaddress import ip_network

import pytest
from pydantic import ValidationError

from feature_rollout.runtime.settings import Settings


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
    ],
)
def test_a_value_that_makes_no_sense_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"FEATUREROLLOUT_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


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
