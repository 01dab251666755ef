"""The password of a web server: from its URL, or from ~/.netrc, where no process list shows it."""

import netrc
import os
from urllib.parse import SplitResult, unquote

from vega3d.pipeline.errors import UsageError


def user_and_password(parts: SplitResult) -> tuple[str, str] | None:
    """Return what a server is told of who asks; None where nobody says.

    Args:
        parts: Of the URL. Without a user in it, the server's entry in the file that NETRC names,
            or in ~/.netrc, is taken, as curl and git do; not `default`, which anybody would get.

    Raises:
        UsageError: That file cannot be understood, or others may read it.
    """
    if parts.username or parts.password:
        return unquote(parts.username or ""), unquote(parts.password or "")
    path = os.environ.get("NETRC") or os.path.expanduser("~/.netrc")
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return None
    try:
        entry = netrc.netrc(path).hosts.get(parts.hostname or "")
    except (OSError, UnicodeDecodeError, netrc.NetrcParseError) as error:
        raise UsageError(f"{path}: is no netrc file that can be read") from error
    if entry is None:
        return None
    if mode & 0o077:
        raise UsageError(f"{path}: others may read the passwords in it; chmod 600 {path}")
    return entry[0], entry[2] or ""
