"""The one exception of the sandbox."""


class SandboxError(Exception):
    """Something could not be found, built, started or run; the message ends with the log's last lines."""
