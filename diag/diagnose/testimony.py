"""What telling lines say of a culprit in their own words, beside who wrote them."""

from __future__ import annotations

from collections.abc import Sequence

from diag.diagnose.differing import NOBODY
from diag.diagnose.evidence import Evidence
from diag.diagnose.whois import distinct
from diag.model import Observation
from diag.system.lazy import lazily

_TOLD = (
    lazily(r"\bray::.{1,200}?\(pid=\d+, ip=([\w.:]+)"),  # where a Ray task ran that raised
    lazily(r"^(?:fatal|failed): \[([A-Za-z0-9][\w.-]*)\](?:: | =>)"),  # Ansible
)
_REFUSES = (
    lazily(
        r"HTTPS?ConnectionPool\(host='([\w.-]+)', port=\d+\): Max retries exceeded.{0,300}(?:refused|timed out|No route)"
    ),
    lazily(
        r"ipv4:(\d+\.\d+\.\d+\.\d+):\d+: (?:Failed to connect to remote host|connection attempt timed out)"
    ),
)
_STORE = lazily(r"server socket has failed to (?:bind|listen)")


def told_places(lines: Sequence[Observation], evidence: Evidence) -> set[str]:
    """The machines that the lines' own text, or the Ray task around them, names as the place of the failure."""
    told = {found[1] for line in lines for form in _TOLD if (found := form.search(line.text))}
    if not told and not any(line.origin.host for line in lines):
        told = {host for line in lines if (host := evidence.who.host_of_task(line)) is not None}
    return distinct(told, evidence.who)


def refusing(lines: Sequence[Observation], evidence: Evidence) -> str | None:
    """The one other machine that refuses the connections of which the lines speak."""
    told = {found[1] for line in lines for form in _REFUSES if (found := form.search(line.text))} - set(
        NOBODY
    )
    machines = distinct(told, evidence.who)
    writers = {line.origin.host for line in lines if line.origin.host}
    if len(machines) != 1 or any(evidence.who.same(one, other) for one in writers for other in machines):
        return None
    return machines.pop()


def serves_store(lines: Sequence[Observation], evidence: Evidence) -> bool:
    """True if the store's server does not come up and no line tells whose it is: rank 0 serves it."""
    return any(_STORE.search(line.text) for line in lines) and not any(
        evidence.who.rank_of(line) is not None for line in lines
    )
