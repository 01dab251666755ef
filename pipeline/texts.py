"""Texts that leave the process: no secrets, safe for a terminal, the same for the same fault."""

import re
from collections.abc import Iterable

_URL = re.compile(
    r"\b([A-Za-z][A-Za-z0-9+.-]*://)(?:[^\s/?#'\"<>]*@)?([^\s?#'\"<>]*)([?#][^\s'\"<>]*[^\s'\"<>).,;:])?"
)
_ADDRESS = re.compile(
    r"<([\w.]+)(?: object)?(?: \[[^\]]*\])? at 0x[0-9a-fA-F]+>|\b0x[0-9a-f]{6,}\b"
)
_TOOK = re.compile(r"\b\d+(?:\.\d+)?\s?(?:ns|us|\u00b5s|\u03bcs|ms|s)\b")
_PLACE = re.compile(r"(?<![\w./~-])(?:~|[A-Za-z]:)?(?:/[^\s/:;,'\"()<>]+)+/([^\s/:;,'\"()<>]+)")


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
