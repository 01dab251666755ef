"""Texts that leave the process: no secrets, safe for a terminal, the same for the same fault.

Whatever goes to stdout, stderr, a log, a table or a page goes through `safe` or `safe_values`:
`tell` and `print_result` do it for commands, `start_logging` for logs.
"""

import difflib
import json
import logging
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_URL = re.compile(
    r"\b([A-Za-z][A-Za-z0-9+.-]*://)(?:[^\s/?#'\"<>]*@)?([^\s?#'\"<>]*)([?#][^\s'\"<>]*[^\s'\"<>).,;:])?"
)
_ADDRESS = re.compile(
    r"<([\w.]+)(?: object)?(?: \[[^\]]*\])? at 0x[0-9a-fA-F]+>|\b0x[0-9a-f]{6,}\b"
)
_TOOK = re.compile(r"\b\d+(?:\.\d+)?\s?(?:ns|us|\u00b5s|\u03bcs|ms|s)\b")
_PLACE = re.compile(r"(?<![\w./~-])(?:~|[A-Za-z]:)?(?:/[^\s/:;,'\"()<>]+)+/([^\s/:;,'\"()<>]+)")


def nearest(name: object, known: Iterable[str]) -> str:
    """Return the known name that is most like one, "" where none is."""
    return next(iter(difflib.get_close_matches(str(name), list(known), n=1)), "")


def meant(name: object, known: Iterable[str]) -> str:
    """Return a name that is none of those known, with the one that is like it, if any."""
    near = nearest(name, known)
    return f"{name!r}; did you mean {near!r}?" if near else repr(name)


def shown_url(url: str) -> str:
    """Return a URL without user, password, query and fragment; other text as it is."""
    return without_secrets(url) if "://" in url else url


def without_secrets(text: str) -> str:
    """Strip user info, query and fragment from the URLs in a text: they hold keys and tokens."""
    return _URL.sub(lambda found: found[1] + found[2], text)


def printable(text: str) -> str:
    """Escape what a terminal would act upon, and what is no Unicode; line ends stay."""
    return "".join(
        one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode()
        for one in text
    )


def safe(text: str) -> str:
    """Return a text without secrets and without what a terminal would act upon."""
    return printable(without_secrets(text))


def safe_values(value: Any) -> Any:  # noqa: ANN401 - plain JSON
    """Return a JSON value whose texts, names included, are safe."""
    if isinstance(value, str):
        return safe(value)
    if isinstance(value, Mapping):
        return {safe_values(name): safe_values(inner) for name, inner in value.items()}
    return [safe_values(inner) for inner in value] if isinstance(value, list | tuple) else value


def on_page(value: Any) -> Any:  # noqa: ANN401 - whatever a template shows
    """Return a value as a page may show it: `finalize` of the templates; markup is ours."""
    if type(value) is not str:
        return value
    space = "\N{NO-BREAK SPACE}"  # ours, between a number and its unit; Python does not print it
    return space.join(map(safe, value.split(space)))


def tell_some(lines: Sequence[str], most: int = 20) -> None:
    """Say the first lines to a person, and how many more there are."""
    for line in lines[:most]:
        tell(line)
    if len(lines) > most:
        tell(f"and {len(lines) - most} more; the JSON has all")


def tell(text: str) -> None:
    """Say something to a person on stderr, or to the program that reads the logs."""
    as_json = any(isinstance(one.formatter, JsonFormatter) for one in logging.root.handlers)
    told = _json_line("INFO", "vega3d", safe(text)) if as_json else safe(text)
    sys.stderr.write(f"{told}\n")
    sys.stderr.flush()


class SafeFormatter(logging.Formatter):
    """Formats log records, their tracebacks included, as safe texts."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a record."""
        return safe(super().format(record))


class JsonFormatter(SafeFormatter):
    """Formats each record as one JSON object a line, with the unit and the scene it is about."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        about = {name: getattr(record, name) for name in ABOUT if hasattr(record, name)}
        return _json_line(record.levelname, record.name, super().format(record), **about)


ABOUT = ("unit", "scene")
"""What `extra` of a log call may name."""


def _json_line(level: str, logger: str, message: str, **about: object) -> str:
    line = {"time": time.time(), "level": level, "logger": logger, "message": message}
    return json.dumps({**line, **safe_values(about)})


def start_logging(
    level: int, form: str = "%(levelname)s %(name)s: %(message)s", *, as_json: bool = False
) -> None:
    """Send logs and warnings to stderr, as safe texts or as a JSON object a line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter("%(message)s") if as_json else SafeFormatter(form))
    logging.basicConfig(level=level, handlers=[handler])
    logging.captureWarnings(True)


def fixed_text(text: str, roots: Iterable[str] = ()) -> str:
    """Return a reason as a record keeps it: the same for the same fault, wherever it is met.

    Args:
        text: As an error tells it.
        roots: Folders and URLs whose names are left out, so that files are named below them.
    """
    for root in sorted((root.rstrip("/") for root in roots), key=len, reverse=True):
        if root:
            text = text.replace(f"{root}/", "")
    text = _URL.sub(lambda found: found[2].rpartition("/")[2] or found[2], text)
    text = _ADDRESS.sub(lambda found: found[1] or "an address", text)
    text = _PLACE.sub(r"\1", text)
    return printable(_TOOK.sub("some time", text)).replace("\n", " ")
