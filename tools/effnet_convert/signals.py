"""Signals that ask the program to end become an exception, so that nothing half-made stays behind."""

import contextlib
import signal

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """A signal asked the program to end."""

    def __init__(self, number):
        super().__init__(number)
        self.number = number


_depth = 0  # of held()
_waiting = None  # the signal that came meanwhile


def _stop(number, _):
    """Raises Stopped once: further signals do not disturb the cleaning up."""
    global _waiting
    if _depth:
        _waiting = number
        return
    for each in SIGNALS:
        if signal.getsignal(each) is _stop:
            signal.signal(each, signal.SIG_IGN)
    raise Stopped(number)


@contextlib.contextmanager
def raised():
    """Within, the signals raise Stopped in the main thread. One that is ignored already (nohup) stays so."""
    before = {}
    try:
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, _stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def held():
    """Within, they wait: between steps that only together leave things in order. A signal mask would not do:
    NumPy's threads take signals too."""
    global _depth, _waiting
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if not _depth and _waiting is not None:
            number, _waiting = _waiting, None
            _stop(number, None)
