"""A template of messages can name values and do nothing else; no template and no value makes a message without end."""

import json
import re
from pathlib import Path

import pytest

from feature_rollout.notify.http import Http
from feature_rollout.notify.slack import Slack, escaped
from feature_rollout.notify.template import CHARS_MAX, NAMES, RENDERED_CHARS_MAX, Template
from support.fakeslack import TOKEN, FakeSlack
from support.receiver import Receiver
from support.transitions import transition

PAGE = Path(__file__).parents[3] / "docs" / "notifications.md"
REVERT = transition("DisableFlags", 4, reason="FlagsDisabled", message="error-rate was 3%", stage="half")


def test_every_name_is_replaced() -> None:
    made = Template("|".join(f"{{{{{name}}}}}" for name in NAMES)).render(REVERT)
    shown = dict(zip(NAMES, made.split("|"), strict=True))
    assert shown == {
        "message": "error-rate was 3%",
        "namespace": "shop",
        "name": "new-checkout",
        "cluster": "prod",
        "stage": "half",
        "attempt": "1",
        "verb": "DisableFlags",
        "reason": "FlagsDisabled",
        "actor": "operator",
        "operation": "prod/shop/new-checkout@4",
    }


def test_what_is_no_rollouts_has_no_names_of_one() -> None:
    kill = transition("Kill", key="kill", message="orders are lost", actor="carol", stage=None)
    assert Template("{{ namespace }}/{{ name }} {{stage}}: {{message}}").render(kill) == (
        "/ : carol switched off new_checkout: orders are lost"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it is empty"),
        ("{{messages}}", "{{messages}} is none of message, namespace"),
        ("{{message.__class__.__mro__}}", "{{ is not understood"),
        ("{{message|attr('__globals__')}}", "{{ is not understood"),
        ("{{''.join(message)}}", "{{ is not understood"),
        ("{{message * 1000000000}}", "{{ is not understood"),
        ("{{message['a']}}", "{{ is not understood"),
        ("{% for x in range(1000000000) %}{{message}}{% endfor %}", "{% is not understood"),
        ("{# {{message}}", "{# is not understood"),
        ("{{message}", "{{ is not understood"),
        ("message}}", "}} is not understood"),
        ("{{{{message}}}}", "{{ is not understood"),
        ("{{Message}}", "{{ is not understood"),
        ("{{message}}" * 17, "17 names are to be replaced in it, and at most 16 may be"),
        ("{" * (CHARS_MAX + 1), "1001 characters, and at most 1000 may be"),
        ("{{" + " " * (CHARS_MAX - 2), "{{ is not understood"),
    ],
)
def test_a_template_that_wants_more_is_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - what it says is compared below
        Template(text)
    assert says in str(caught.value)


@pytest.mark.parametrize("text", ["%(message)s %s {message} {0.__class__} ${message} $(message)", "{a: {b: 1} }"])
def test_other_languages_are_text(text: str) -> None:
    assert Template(text).render(REVERT) == text


def test_what_is_put_in_is_never_a_template() -> None:
    hostile = transition("Pause", message="{{actor}} {{operation}}", actor="{{message}}")
    assert Template("{{message}} by {{actor}}").render(hostile) == "{{actor}} {{operation}} by {{message}}"


def test_however_much_is_said_the_message_has_a_bound() -> None:
    loud = transition("Pause", message="<" * 1_000_000, actor="&" * 1_000_000, flags={})
    template = Template("{{message}}{{actor}}" * 8)
    assert len(template.render(loud, escaped)) == RENDERED_CHARS_MAX
    assert len(json.dumps(template.render(loud, escaped))) < 64_000


def test_the_page_names_them_all() -> None:
    _, _, section = PAGE.read_text(encoding="utf-8").partition("## In whose words\n")
    (example,) = re.findall(r'^  template: "(.*)"$', section, re.MULTILINE)
    assert "error-rate was 3% <https://grafana.example/d/rollout?var-name=new-checkout|" in Template(example).render(
        REVERT
    )
    assert "error-rate was 3%" in Template(example).render(REVERT)
    (listed,) = re.findall(r"In double braces stand (.*?);", section, re.DOTALL)
    assert set(re.findall(r"`(\w+)`", listed)) == set(NAMES)
    assert f"cut at {RENDERED_CHARS_MAX:,} characters" in section


async def test_slack_takes_links_and_mentions_from_the_template_alone(receiver: Receiver, http: Http) -> None:
    workspace = FakeSlack(receiver, "#rollouts")
    template = Template("<!here> {{message}} <https://grafana.example/d/r?var-name={{name}}|dashboard>")
    slack = Slack(http, TOKEN, "#rollouts", lambda *_: None, receiver.url + "/api", template=template)
    await slack.send(transition("Pause", message="<!channel> wait", flags={}), {})
    text = workspace.only.text
    assert "<!here> &lt;!channel&gt; wait <https://grafana.example/d/r?var-name=new-checkout|dashboard>" in text
