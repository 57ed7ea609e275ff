"""What can go wrong between us and the API server. No message has a byte of an answer's body in it."""

from __future__ import annotations


class ApiError(Exception):
    """A call that did not do what it was asked to.

    `code` is the HTTP status, or None when no answer came. `detail` is what the API server
    says of it in words, or empty: for the person at the command line who has asked, and for
    no log, status or Event, because anybody may have written it.
    """

    detail = ""

    def __init__(self, what: str, code: int | None = None) -> None:
        super().__init__(what if code is None else f"{what}: {code}")
        self.code = code


class Stale(ApiError):
    """The object is not as it was decided on: read it again and decide again, never retry blindly."""


class Gone(ApiError):
    """The object does not exist; nothing was created."""


class PermissionDenied(ApiError):
    """RBAC or an admission policy says no: a person must mend it."""


class ApiUnavailable(ApiError):
    """No answer in time, 429 or 5xx: the same call may succeed later."""


class Refused(ApiError):
    """Any other 4xx: the same call will not succeed later.

    `reason` is the API server's one-word reason (`Invalid`, `AlreadyExists`), or empty.
    """

    def __init__(self, what: str, code: int, reason: str) -> None:
        super().__init__(f"{what}: {reason}" if reason else what, code)
        self.reason = reason
