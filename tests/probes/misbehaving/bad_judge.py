"""Looks fine, judges badly."""

from __future__ import annotations

from diag.observe.probes.interface import Facts, Probe, Setup


def collect(setup: Setup) -> Facts:
    return {"one": 1, "env": dict(setup.env).get("SEEN"), "cwd_json": __import__("json").__file__}


PROBE = Probe("bad.judge", "Bad judge", collect, lambda facts: [facts["two"]], timeout_s=3.0)
