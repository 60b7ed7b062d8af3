"""Ignores every signal that can be ignored, and sleeps."""

from __future__ import annotations

import signal
import time

from diag.observe.probes.interface import Facts, Probe, Setup


def collect(setup: Setup) -> Facts:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        time.sleep(3600)


PROBE = Probe("bad.ignores-term", "Deaf one", collect, lambda facts: [], timeout_s=0.5)
