"""A router's targets against the servers that the same call shows: mode, port and bootstrap port.

The servers of a disaggregated SGLang launch usually have a script each, so all files of a call are judged together too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from diag.diagnose.plans.case import Case, absent, judged
from diag.diagnose.plans.judge_network import HTTP_DEFAULT
from diag.diagnose.plans.settings import as_int, engine_of, exclusive, integer, setting_of, text_of
from diag.model import Finding, Status
from diag.model.launch import Service

BOOTSTRAP_DEFAULT = 8998
"""SGLang: --disaggregation-bootstrap-port."""
_URL = re.compile(r"(?:https?://)?(?P<host>[\w.-]+):(?P<port>\d+)/?\Z")
_HERE = re.compile(r"localhost\Z|127\.|0\.0\.0\.0\Z")


@dataclass(frozen=True)
class Target:
    """One server that a router is told of."""

    role: str
    host: str
    port: int
    bootstrap: int | None


def targets_of(router: Service) -> list[Target]:
    """What `--prefill URL [PORT]` and `--decode URL` of a router name."""
    found = []
    for line in str(dict(getattr(router, "notes", {})).get("targets") or "").splitlines():
        role, url, *more = line.split()
        match = _URL.match(url)
        if match:
            found.append(Target(role, match["host"], int(match["port"]), as_int(more[0]) if more else None))
    return found


def judge_targets(case: Case) -> Iterator[Finding]:
    """Servers behind a router's prefill and decode targets that are not what it takes them for."""
    for router in case.services:
        targets = targets_of(router)
        servers = [
            each
            for each in case.services
            if engine_of(each) and each.role in ("worker", "prefill", "decode") and not absent(each)
        ]
        if not targets or not servers or any(exclusive(router, each) for each in servers):
            continue
        for target in targets:
            behind = [each for each in servers if _listens(each, target)]
            if not behind:
                yield from _nobody(router, target, targets, servers)
            for server in behind[:1]:
                yield from _mode(router, target, server)
                yield from _bootstrap(router, target, server)


def _listens(server: Service, target: Target) -> bool:
    port = integer(server, "port") or HTTP_DEFAULT.get(engine_of(server) or "")
    host = text_of(server, "host") or ""
    same = bool(_HERE.match(target.host)) or host in (target.host, "0.0.0.0", "")  # noqa: S104 - compared only
    return port == target.port and same


def _nobody(
    router: Service, target: Target, targets: list[Target], servers: list[Service]
) -> Iterator[Finding]:
    """No server on a port of this machine, while one of that kind listens where no target points."""
    wanted = {(each.role, each.port) for each in targets}
    idle = [
        each
        for each in servers
        if each.role == target.role
        and (port := integer(each, "port")) is not None
        and (each.role, port) not in wanted
    ]
    if not _HERE.match(target.host) or len(idle) != 1:
        return
    port = integer(idle[0], "port")
    yield judged(
        "network-unreachable",
        router,
        Status.FAIL,
        f"{router.name} sends to {target.host}:{target.port} for {target.role}, where nothing listens; "
        f"{idle[0].name} listens on {port}",
        setting=setting_of(router, target.role),
        do=f"Give the router http://{target.host}:{port} as --{target.role}",
        listens=port,
        asked=target.port,
    )


def _mode(router: Service, target: Target, server: Service) -> Iterator[Finding]:
    if engine_of(server) != "sglang" or text_of(server, "disaggregation-mode") == target.role:
        return
    mode = text_of(server, "disaggregation-mode")
    if mode is not None and "$" in mode:
        return
    state = f"runs with --disaggregation-mode {mode}" if mode else "has no --disaggregation-mode"
    yield judged(
        "disagg-prefill-not-enabled",
        server,
        Status.FAIL,
        f"{router.name} takes {server.name} for a {target.role} server, but it {state}: "
        + ("an ordinary engine takes no part in the transfer" if not mode else "the transfer never happens"),
        setting=setting_of(server, "disaggregation-mode", "disaggregation-transfer-backend", "port"),
        missing="disaggregation-mode",
        do=f"Start {server.name} with --disaggregation-mode {target.role}",
        settings={"disaggregation-mode": target.role},
    )


def _bootstrap(router: Service, target: Target, server: Service) -> Iterator[Finding]:
    if target.role != "prefill" or target.bootstrap is None or engine_of(server) != "sglang":
        return
    own = integer(server, "disaggregation-bootstrap-port")
    if own is None and setting_of(server, "disaggregation-bootstrap-port") is not None:
        return  # a variable
    own = BOOTSTRAP_DEFAULT if own is None else own
    if own != target.bootstrap:
        yield judged(
            "kv-transfer-hang",
            server,
            Status.FAIL,
            f"{router.name} tells decode to fetch from {server.name}'s bootstrap server on port {target.bootstrap}, which listens on {own}",
            setting=setting_of(server, "disaggregation-bootstrap-port") or setting_of(router, "prefill"),
            do=f"Give the router {own} behind the prefill server's address",
            announced=target.bootstrap,
            listens=own,
        )


def judge_one_set_of_gpus(case: Case) -> Iterator[Finding]:
    """SGLang servers of one machine that begin at the same GPU and together want more memory than it has."""
    for router in case.services:
        here = [each for each in targets_of(router) if _HERE.match(each.host)]
        servers = [
            each
            for each in case.services
            if engine_of(each) == "sglang" and any(_listens(each, target) for target in here)
        ]
        for number, one in enumerate(servers):
            for other in servers[number + 1 :]:
                yield from _overlap(one, other)


def _overlap(one: Service, other: Service) -> Iterator[Finding]:
    spans = []
    for each in (one, other):
        if "CUDA_VISIBLE_DEVICES" in each.env or each.tensor_parallel_size is None:
            return
        first = integer(each, "base-gpu-id") or 0
        spans.append((first, first + each.tensor_parallel_size))
    shares = [_share(each) for each in (one, other)]
    low, high = max(spans[0][0], spans[1][0]), min(spans[0][1], spans[1][1])
    if low < high and None not in shares and sum(share or 0 for share in shares) > 1:
        yield judged(
            "gpu-memory-in-use",
            other,
            Status.FAIL,
            f"{one.name} and {other.name} both take GPUs {low} to {high - 1} with {shares[0]:g} and {shares[1]:g} of their memory",
            setting=setting_of(other, "base-gpu-id", "tensor-parallel-size"),
            do=f"Give {other.name} --base-gpu-id {spans[0][1]}",
            settings={"base-gpu-id": spans[0][1]},
        )


def _share(service: Service) -> float | None:
    try:
        return float(text_of(service, "mem-fraction-static") or "")
    except ValueError:
        return None


def judge_lone_side(case: Case) -> Iterator[Finding]:
    """`dynamo serve` with SGLang: one worker prefills for others, and another one does not say that it decodes."""
    if case.plan.kind != "dynamo-2025":
        return
    engines = [each for each in case.engines if engine_of(each) == "sglang" and not absent(each)]
    modes = {text_of(each, "disaggregation-mode") for each in engines}
    for service in engines:
        if modes & {"prefill", "decode"} and text_of(service, "disaggregation-mode") is None:
            other = "decode" if "prefill" in modes else "prefill"
            yield judged(
                "disagg-prefill-not-enabled",
                service,
                Status.FAIL,
                f"{service.name} has no disaggregation-mode beside a {'prefill' if other == 'decode' else 'decode'} worker: "
                "it serves whole requests and never takes part in the transfer",
                setting=setting_of(service, "disaggregation-transfer-backend", "model-path"),
                missing="disaggregation-mode",
                do=f"Set disaggregation-mode: {other} for {service.name}",
                settings={"disaggregation-mode": other},
            )


JUDGES = (judge_targets, judge_one_set_of_gpus, judge_lone_side)
