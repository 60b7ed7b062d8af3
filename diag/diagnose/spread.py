"""Values that lines, hosts and ranks ought to share and do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from diag.model import Observation


def grouped(lines: Sequence[Observation], key: str, capture: str) -> dict[str, set[str]]:
    """Values of a capture by what the lines say of `key`."""
    found: dict[str, set[str]] = {}
    for one in lines:
        if capture in one.fields:
            writer = getattr(one.origin, key) if key in ("host", "rank", "process") else one.fields.get(key)
            if writer is not None:
                found.setdefault(str(writer), set()).add(str(one.fields[capture]))
    return found


def odd_hosts(lines: Sequence[Observation], capture: str) -> list[Observation]:
    """Lines of the hosts whose one value is not the others': none where no value has a clear majority."""
    values = grouped(lines, "host", capture)
    hosts = {host: next(iter(found)) for host, found in values.items() if len(found) == 1}
    if len(hosts) < 3 or len(hosts) < len(values):
        return []
    counted = Counter(hosts.values())
    usual, times = counted.most_common(1)[0]
    if len(counted) == 1 or 2 * times <= len(hosts):
        return []
    return [one for one in lines if hosts.get(one.origin.host or "", usual) != usual]
