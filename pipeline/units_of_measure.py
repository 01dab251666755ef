"""Bytes and seconds as people write them. Standard library only."""


def size_text(size_bytes: float) -> str:
    """Return a size in decimal units: 19.3 GB."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size_bytes < 1000 or unit == "TB":
            break
        size_bytes /= 1000
    return f"{size_bytes:.3g} {unit}"


def span_text(seconds: float) -> str:
    """Return a time in the one or two units that matter: 88 s, 12 min, 2 h 10 min, 3 d 4 h."""
    if seconds < 100:
        return f"{seconds:.2g} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"
