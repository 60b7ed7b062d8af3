"""Cannot even be imported."""

from __future__ import annotations

raise RuntimeError("no such luck")
