"""Loopback addresses of one's own, as pods have them: servers keep their usual ports, and no two of them meet.

A port that was looked up while it was free may be taken by the time a process binds it: by another test's server, or by any
connection out of 127.0.0.1. An address that nobody else knows has all its ports free.
"""

import random
from typing import Final

_RANDOM: Final = random.SystemRandom()
_GIVEN: Final[set[str]] = set()


def fresh_ip() -> str:
    """Return an address of 127.128.0.0 to 127.250.255.254: local clusters have those below (``lab.loopback``)."""
    while True:
        ip = f"127.{_RANDOM.randint(128, 250)}.{_RANDOM.randint(0, 255)}.{_RANDOM.randint(1, 254)}"
        if ip not in _GIVEN:
            _GIVEN.add(ip)
            return ip
