"""`featurerollout`, also installed as the kubectl plugin `kubectl featurerollout`."""


def main() -> None:
    """Placeholder."""
