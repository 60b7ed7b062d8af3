"""What was measured on different machines is not each other's echo."""

from __future__ import annotations

from diag.diagnose.engine import diagnose
from diag.diagnose.evidence import prepare
from diag.model import Finding, Role, Status
from diag.playbooks.base import load_base


def measured(probe: str, cause: str, host: str) -> Finding:
    return Finding(
        probe, host, Status.FAIL, f"{host}: {cause}", None, {"cause": cause, "host": host, "certain": True}
    )


def roles(first_host: str, second_host: str) -> dict[str, Role]:
    findings = [
        measured("link.mtu", "mtu-mismatch", first_host),
        measured("link.bandwidth", "slow-link", second_host),
    ]
    return {one.id: one.role for one in diagnose(load_base(), prepare([], findings, {}, {}))}


def test_a_slow_node_is_no_echo_of_another_nodes_mtu() -> None:
    assert roles("gpu3", "gpu2")["slow-link"] is not Role.ECHO


def test_on_one_node_the_mtu_explains_the_slowness() -> None:
    assert roles("gpu3", "gpu3")["slow-link"] is Role.ECHO
