"""The type of the fixture that writes records to a file."""

from collections.abc import Callable, Sequence
from pathlib import Path

Write = Callable[[str, Sequence[dict]], Path]
