"""Prints garbage to both streams, and writes garbage where the answer goes."""

from __future__ import annotations

import os
import sys

from diag.observe.probes.interface import Facts, Probe, Setup


def collect(setup: Setup) -> Facts:
    print("\x00\xff{]" * 5000)
    print("the reason", file=sys.stderr, flush=True)
    for fd in range(3, 20):
        try:
            os.write(fd, b"{not json")
        except OSError:
            continue
    os._exit(0)


PROBE = Probe("bad.garbage", "Babbler", collect, lambda facts: [], timeout_s=3.0)
