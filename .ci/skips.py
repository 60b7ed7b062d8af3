"""Counts skipped tests, so that a marker or a missing tool cannot swallow the suite unseen.

Usage: python .ci/skips.py JUNIT.xml. Where CI is set, more skips than .ci/expected-skips allows are a failure.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from xml.etree import ElementTree


def main(path: str) -> int:
    """Print the count and every reason; return 1 where CI sees too many."""
    try:
        root = ElementTree.parse(path).getroot()  # noqa: S314 - as above
    except (OSError, ElementTree.ParseError):
        print("no test results to count", file=sys.stderr)  # noqa: T201 - this is a script
        return 1
    reasons = [skip.get("message") or "without a reason" for skip in root.iter("skipped")]
    allowed = int((Path(__file__).parent / "expected-skips").read_text().split()[0])
    print(f"{len(reasons)} tests skipped, {allowed} expected without a GPU", file=sys.stderr)  # noqa: T201
    for reason in sorted(set(reasons)):
        print(f"  {reasons.count(reason)} x {reason}", file=sys.stderr)  # noqa: T201
    return 1 if os.environ.get("CI") and len(reasons) > allowed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
