"""Dies of a signal."""

from __future__ import annotations

import os
import signal

from diag.observe.probes.interface import Facts, Probe, Setup


def collect(setup: Setup) -> Facts:
    os.kill(os.getpid(), signal.SIGSEGV)
    return {}


PROBE = Probe("bad.crashes", "Crasher", collect, lambda facts: [], timeout_s=3.0)
