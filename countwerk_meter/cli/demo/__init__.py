"""`countwerk-meter demo`."""


def demo() -> None:
    """Show it."""
