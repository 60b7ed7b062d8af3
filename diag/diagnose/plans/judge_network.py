"""Addresses and ports: loopback as a meeting point, one address for several nodes, one port for two."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from diag.diagnose.plans.case import Case, absent, judged, ranks_of
from diag.diagnose.plans.settings import as_int, engine_of, exclusive, setting_of, text_of
from diag.model import Finding, Status
from diag.model.launch import Service, Setting

LOOPBACK = re.compile(r"\A(?:localhost|127(?:\.\d{1,3}){3}|::1|\[::1\]|0\.0\.0\.0)(?::\d+)?\Z", re.IGNORECASE)
MEETING = (
    "dist-init-addr",
    "nccl-init-addr",
    "master-addr",
    "master_addr",
    "rdzv-endpoint",
    "rdzv_endpoint",
    "main-process-ip",
    "data-parallel-address",
)
MEETING_ENV = ("MASTER_ADDR", "VLLM_DP_MASTER_IP", "RAY_ADDRESS")
OWN_ENV = ("VLLM_HOST_IP", "HOST_IP", "SGLANG_HOST_IP")
SIDE_CHANNEL = "VLLM_NIXL_SIDE_CHANNEL_HOST"
PORTS = {
    # option or variable -> what listens there; defaults from FACTS of each program: vLLM HTTP 8000, SGLang HTTP 30000
    "port": "HTTP",
    "http-port": "HTTP",
    "data-parallel-rpc-port": "data-parallel RPC",
    "disaggregation-bootstrap-port": "bootstrap",
    "nccl-port": "NCCL",
    "grpc-port": "gRPC",
}
PORT_ENV = {
    "VLLM_NIXL_SIDE_CHANNEL_PORT": "NIXL side channel",
    "DYN_SYSTEM_PORT": "system status",
    "MASTER_PORT": "rendezvous",
}
HTTP_DEFAULT = {"vllm": 8000, "sglang": 30000}
SHARED_HOST = ("shell", "command-line", "slurm")


def nodes_of(case: Case, service: Service) -> int:
    """Nodes that one copy of a service spans, 1 where nothing says more."""
    return max(service.nodes_per_replica or 1, as_int(text_of(service, "nnodes")) or 1)


def spans_nodes(case: Case, service: Service) -> bool:
    """True for a launch of several nodes, also where their number is a variable."""
    if nodes_of(case, service) > 1 or (case.plan.nodes or 1) > 1:
        return True
    there = case.hardware.gpus_per_node if case.hardware is not None else None
    if engine_of(service) == "vllm" and there and ranks_of(service) > there:
        return True  # spread by Ray
    asked = text_of(service, "nnodes", "num-machines") or ""
    return bool(re.match(r"\$", asked)) and not _all_here(case, service)


def judge_meeting_point(case: Case) -> Iterator[Finding]:
    """A master address of several nodes that means each node itself."""
    for service in case.services:
        if nodes_of(case, service) < 2 and not (
            case.plan.kind == "slurm" and (case.plan.nodes or 1) > 1 and service.role == "trainer"
        ):
            continue
        if _all_here(case, service):
            continue
        rank = as_int(text_of(service, "node-rank"))
        for name in MEETING:
            setting = setting_of(service, name)
            if (
                setting is not None
                and LOOPBACK.match(str(setting.value))
                and not (text_of(service, "standalone"))
            ):
                yield _loopback(service, name, setting, rank)
        for name in MEETING_ENV:
            variable = service.env.get(name)
            if (
                variable is not None
                and LOOPBACK.match(str(variable.value))
                and not any(setting_of(service, each) for each in MEETING)
            ):
                yield _loopback(service, name, variable, rank)


def _all_here(case: Case, service: Service) -> bool:
    """True where one script starts every node's process itself, all on one machine."""
    ranks = {
        as_int(text_of(each, "node-rank")) for each in case.services if each.framework == service.framework
    }
    if any("host" in getattr(each, "notes", {}) for each in case.services):
        return False
    waited = [each for each in case.services if "background" not in getattr(each, "notes", {})]
    return case.plan.kind == "shell" and len(waited) <= 1 and ranks >= set(range(nodes_of(case, service)))


def _loopback(service: Service, name: str, setting: Setting, rank: int | None) -> Finding:
    return judged(
        "host-ip-wrong",
        service,
        Status.FAIL,
        f"{service.name} spans several nodes, but {name} is {setting.value}: every other node would look for the master on itself",
        setting=setting,
        do=f"Set {name} to an address of the first node that the others reach",
        node_rank=rank,
    )


def judge_own_address(case: Case) -> Iterator[Finding]:
    """A node's own address written once for all nodes, or a loopback."""
    for service in case.services:
        many = spans_nodes(case, service)
        for name in OWN_ENV:
            setting = service.env.get(name)
            if setting is None or not many:
                continue
            value = str(setting.value)
            if LOOPBACK.match(value):
                yield judged(
                    "host-ip-wrong",
                    service,
                    Status.FAIL,
                    f"{service.name}: {name} is {value} on a launch of several nodes",
                    setting=setting,
                    do=f"Set {name} to each node's own address",
                )
            elif re.fullmatch(r"\d+\.\d+\.\d+\.\d+", value):
                yield judged(
                    "host-ip-wrong",
                    service,
                    Status.FAIL,
                    f"{service.name}: {name} {value} is the same on all of its nodes; it must be each node's own address",
                    setting=setting,
                    do=f"Set {name} from the node itself, for example from status.podIP or `hostname -I`",
                )


def judge_side_channel(case: Case) -> Iterator[Finding]:
    """NIXL's side channel: its host defaults to localhost, which no other node reaches."""
    pairs = [
        each
        for each in case.engines
        if each.role in ("prefill", "decode") and engine_of(each) == "vllm" and not absent(each)
    ]
    seen: dict[str, Service] = {}
    for service in pairs:
        setting = service.env.get(SIDE_CHANNEL)
        value = str(setting.value) if setting is not None else ""
        apart = case.plan.kind in ("kubernetes", "dgd-v1alpha1", "dgd-v1beta1") or nodes_of(case, service) > 1
        if (
            setting is not None and apart and LOOPBACK.match(value) and not value.startswith("0.")
        ):  # a gateway may fill in all interfaces
            yield judged(
                "host-ip-wrong",
                service,
                Status.FAIL,
                f"{service.name}: {SIDE_CHANNEL} is {value}; the other side of the KV transfer is in another pod",
                setting=setting,
                do=f"Set {SIDE_CHANNEL} from status.podIP",
            )
        elif (
            setting is None
            and apart
            and getattr(service, "program", "") == "vllm"
            and "NixlConnector" in (text_of(service, "kv-transfer-config") or "")
        ):
            yield judged(
                "host-ip-wrong",
                service,
                Status.FAIL,
                f"{service.name} hands its KV cache over with NIXL, but {SIDE_CHANNEL} is not set, and its default is localhost",
                setting=setting_of(service, "kv-transfer-config"),
                missing=SIDE_CHANNEL,
                do=f"Set {SIDE_CHANNEL} from status.podIP",
            )
        elif re.fullmatch(r"(?!0\.0\.0\.0)\d+\.\d+\.\d+\.\d+", value) and value in seen and apart:
            yield judged(
                "host-ip-wrong",
                service,
                Status.FAIL,
                f"{service.name} and {seen[value].name} both have {SIDE_CHANNEL} {value}",
                setting=setting,
                do="Give each pod its own address, from status.podIP",
            )
        seen.setdefault(value, service)


def ports_of(service: Service) -> Iterator[tuple[int, str, Setting | None]]:
    """(port, what listens, where it is said) of one service."""
    for name, what in PORTS.items():
        setting = setting_of(service, name)
        number = as_int(setting.value) if setting is not None else None
        if name == "disaggregation-bootstrap-port" and service.role != "prefill":
            continue  # the prefill side listens, the decode side calls
        if setting is not None and number:
            yield number, what, setting
        elif (
            name == "port"
            and setting is None
            and getattr(service, "program", "") in HTTP_DEFAULT
            and service.role != "other"
        ):
            yield HTTP_DEFAULT[service.program], what, None  # type: ignore[attr-defined]  # PlacedService, as getattr said
    for name, what in PORT_ENV.items():
        variable = service.env.get(name)
        number = as_int(variable.value) if variable is not None else None
        if variable is not None and number and name != "MASTER_PORT":
            yield number, what, variable
    address = text_of(service, "dist-init-addr")
    found = re.search(r":(\d+)\Z", address or "")
    rank = text_of(service, "node-rank")
    if found and (rank is None or as_int(rank) == 0):
        yield int(found.group(1)), "distributed init", setting_of(service, "dist-init-addr")


def judge_own_ports(case: Case) -> Iterator[Finding]:
    """One service that uses one port for two things."""
    for service in case.services:
        seen: dict[int, str] = {}
        for port, what, setting in ports_of(service):
            if port in seen and seen[port] != what and setting is not None:
                yield judged(
                    "port-in-use",
                    service,
                    Status.FAIL,
                    f"{service.name} uses port {port} for {seen[port]} and for {what}",
                    setting=setting,
                    port=port,
                    do=f"Give {what} another port",
                    **_free_port(case, service, setting, port),
                )
            seen.setdefault(port, what)


def judge_shared_ports(case: Case) -> Iterator[Finding]:
    """Two services that listen on one port of one host."""
    users: dict[tuple[str, int], list[tuple[Service, str, Setting | None]]] = defaultdict(list)
    for service in case.services:
        place = _place(case, service)
        if place is None or absent(service):
            continue
        for port, what, setting in ports_of(service):
            users[place, port].append((service, what, setting))
    for (_, port), found in users.items():
        clash = next(
            (
                (one[0], other)
                for index, other in enumerate(found)
                for one in found[:index]
                if one[0].name != other[0].name and not exclusive(one[0], other[0])
            ),
            None,
        )
        if clash is not None:
            first, (service, what, setting) = clash
            names = {first.name, service.name}
            yield judged(
                "port-in-use",
                service,
                Status.FAIL,
                f"{' and '.join(sorted(names))} both listen on port {port} ({what}) of one host",
                setting=setting,
                port=port,
                do=f"Give {service.name} a port of its own",
                **_free_port(case, service, setting, port),
            )
    yield from _published(case)


def _free_port(case: Case, service: Service, setting: Setting | None, port: int) -> dict[str, Any]:
    """The next port that no service of the plan uses, as an option or a variable of this one."""
    used = {number for each in case.services for number, _, _ in ports_of(each)}
    free = next(number for number in range(port + 1, port + 1 + len(used) + 1) if number not in used)
    for name, variable in service.env.items():
        if variable is setting:
            return {"variables": {name: free}}
    name = next((name for name, option in service.options.items() if option is setting), "port")
    return {"settings": {"port" if name == "dist-init-addr" else name: free}}


def _place(case: Case, service: Service) -> str | None:
    """Whose ports these are: the host's, a pod's; None where services may run apart or one after the other."""
    notes = getattr(service, "notes", {})
    if case.plan.kind == "compose":
        return "host" if notes.get("hostNetwork") else None
    if notes.get("kubernetes"):
        return f"pod {notes.get('pod')} at {notes.get('pod.at')}" if not notes.get("hostNetwork") else None
    if case.plan.kind in SHARED_HOST and notes.get("background") and not notes.get("docker"):
        return f"host {notes.get('host', '')}"
    return None


def _published(case: Case) -> Iterator[Finding]:
    seen: dict[str, Service] = {}
    for service in case.services:
        for entry in str(getattr(service, "notes", {}).get("publish") or "").split(","):
            host = entry.strip().strip("'\"").split("/")[0].rsplit(":", 1)[0] if ":" in entry else ""
            if not re.fullmatch(r"(?:[\d.]+:)?\d+", host):
                continue
            if host in seen and seen[host].name != service.name and case.plan.kind == "compose":
                yield judged(
                    "port-in-use",
                    service,
                    Status.FAIL,
                    f"{seen[host].name} and {service.name} both publish port {host} of the host",
                    port=host,
                    do=f"Publish {service.name} under another port",
                )
            seen.setdefault(host, service)


JUDGES = (judge_meeting_point, judge_own_address, judge_side_channel, judge_own_ports, judge_shared_ports)
