"""What a setting must be, and the one line that says so where it is not."""

from typing import Any


def law(holds: bool, key: str, law: str, got: Any) -> None:
    """Raise ValueError with the key, the law and what came, unless the law ``holds``."""
    if not holds:
        raise ValueError(f"{key} must be {law}, got {got!r}")


def one_of(key: str, choices: tuple[str, ...], got: str) -> None:
    """Raise ValueError unless ``got`` is one of ``choices``."""
    law(got in choices, key, "one of " + ", ".join(choices), got)
