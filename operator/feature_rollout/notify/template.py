"""A template of messages: text with names in double braces, and nothing that could be done with them.

There is no attribute, call, condition or loop to be kept in. Each name is replaced once, so what a manifest
or a person says is never read as a template.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from feature_rollout.notify import wording
from feature_rollout.ports import Transition

DEFAULT: Final = "{{message}}"
CHARS_MAX: Final = 1_000
PLACEHOLDERS_MAX: Final = 16
# Five times a message's own: an escaped character may have so many.
RENDERED_CHARS_MAX: Final = 5 * wording.TEXT_CHARS_MAX
NAMES: Final = ("message", "namespace", "name", "cluster", "stage", "attempt", "verb", "reason", "actor", "operation")

_PLACEHOLDER: Final = re.compile(r"\{\{ {0,4}([a-z]{1,16}) {0,4}\}\}")
# What looks like more than that is a mistake, and is not sent to anybody.
_OTHER: Final = re.compile(r"\{[{%#]|[%#}]\}")


class Template:
    """Raises ValueError, which says what is wrong, for one that cannot be used."""

    def __init__(self, text: str = DEFAULT) -> None:
        if len(text) > CHARS_MAX:
            raise ValueError(f"it has {len(text)} characters, and at most {CHARS_MAX} may be")
        used = _PLACEHOLDER.findall(text)
        if len(used) > PLACEHOLDERS_MAX:
            raise ValueError(f"{len(used)} names are to be replaced in it, and at most {PLACEHOLDERS_MAX} may be")
        unknown = [name for name in used if name not in NAMES]
        if unknown:
            raise ValueError(f"{{{{{unknown[0]}}}}} is none of {', '.join(NAMES)}")
        other = _OTHER.search(_PLACEHOLDER.sub("", text))
        if other is not None:
            raise ValueError(f"{other[0]} is not understood: names in double braces are all that there is")
        if not text.strip():
            raise ValueError(f"it is empty: write {DEFAULT} at least")
        self._text = text

    def render(self, transition: Transition, escaped: Callable[[str], str] = str) -> str:
        """The message; `escaped` is applied to what is put in, and not to the template's own text."""
        cluster, namespace, name = transition.place or ("", "", "")
        payload = transition.payload
        values = {
            "message": wording.sentence(transition),
            "namespace": namespace,
            "name": name,
            "cluster": cluster,
            "stage": payload.get("stage"),
            "attempt": payload.get("attempt"),
            "verb": transition.kind,
            "reason": payload.get("reason"),
            "actor": payload.get("actor"),
            "operation": transition.id,
        }

        def value(match: re.Match[str]) -> str:
            found = values[match[1]]
            return escaped(wording.cut(str(found))) if found is not None else ""

        return wording.cut(_PLACEHOLDER.sub(value, self._text), RENDERED_CHARS_MAX)


# The words of the operator alone.
PLAIN: Final = Template()
