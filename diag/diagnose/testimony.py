"""What telling lines say of a culprit in their own words, beside who wrote them."""

from __future__ import annotations

from collections.abc import Sequence

from diag.diagnose.evidence import Evidence
from diag.diagnose.whois import distinct
from diag.model import Observation
from diag.system.lazy import lazily

_TOLD = (
    lazily(r"\bray::.{1,200}?\(pid=\d+, ip=([\w.:]+)"),  # where a Ray task ran that raised
    lazily(r"^(?:fatal|failed): \[([A-Za-z0-9][\w.-]*)\](?:: | =>)"),  # Ansible
)
_STORE = lazily(r"server socket has failed to (?:bind|listen)")


def told_places(lines: Sequence[Observation], evidence: Evidence) -> set[str]:
    """The machines that the lines' own text, or the Ray task around them, names as the place of the failure."""
    told = {found[1] for line in lines for form in _TOLD if (found := form.search(line.text))}
    if not told and not any(line.origin.host for line in lines):
        told = {host for line in lines if (host := evidence.who.host_of_task(line)) is not None}
    return distinct(told, evidence.who)


def serves_store(lines: Sequence[Observation], evidence: Evidence) -> bool:
    """True if the store's server does not come up and no line tells whose it is: rank 0 serves it."""
    return any(_STORE.search(line.text) for line in lines) and not any(
        evidence.who.rank_of(line) is not None for line in lines
    )
