"""Who decided, and when."""

import getpass
from datetime import UTC, datetime


def signed() -> dict[str, str]:
    """Return `{"by", "at"}`: the user's name on this machine, and the time in UTC."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        name = "unknown"
    return {"by": name, "at": datetime.now(UTC).isoformat(timespec="seconds")}
