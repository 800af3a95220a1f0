"""Starts worker processes, whatever signals come."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

# What ends a program: Ctrl-C, a cluster that takes the machine back, a terminal that is closed.
STOPS = [
    number
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if (number := getattr(signal, name, None))  # Windows has no SIGHUP
]


@contextmanager
def signals_wait() -> Iterator[None]:
    """Within it, STOPS wait until it ends: while a process is forked, they would be lost, or hang
    it. Processes that are forked within it leave them to their parent, but end with SIGTERM.
    """
    parent, came = os.getpid(), []

    def wait(number: int, _: object) -> None:
        if os.getpid() != parent and number == signal.SIGTERM:
            os._exit(128 + number)
        came.append(number)

    handlers = {number: signal.getsignal(number) for number in STOPS}
    try:
        for number in STOPS:
            if handlers[number] != signal.SIG_IGN:  # as nohup wants it
                signal.signal(number, wait)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for number in dict.fromkeys(came):
        signal.raise_signal(number)
