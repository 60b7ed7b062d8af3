"""The ladder's upper rungs: collectives over gloo and NCCL, the KV transfer with NIXL, the ports its services meet on. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from diag.diagnose.nodes.blame import blame
from diag.diagnose.nodes.view import View, found
from diag.model import Finding, Reason, Status
from diag.observe.probes.patient import cause_of

TITLES = {
    "gloo": ("all-reduce", "link.all-reduce", "TCPStore and gloo"),
    "nccl": ("nccl", "link.nccl", "NCCL"),
}
Results = Mapping[str, Mapping[str, Any]]


def judge_upper(view: View) -> list[Finding]:
    """One finding a rung at least: what it gave, or why it was not climbed."""
    if not view.links:
        return []
    return [*_collective(view, "gloo"), *_collective(view, "nccl"), *_services(view), *_transfer(view)]


# collectives


def _collective(view: View, backend: str) -> list[Finding]:
    test, _, title = TITLES[backend]
    told = view.facts["collectives"].get(backend)
    if not told:
        return [_not_climbed(view, backend)]
    data: dict[str, Any] = {"proven_on_gpu": False} if backend == "nccl" else {}
    results: Results = told["all"]
    absent = {int(rank): one["absent"] for rank, one in results.items() if one.get("absent")}
    if absent:
        text = f"{title} between the nodes not tried: {next(iter(absent.values()))} on {view.names(absent)}"
        return [found(test, Status.SKIP, text, reason=Reason.TOOL_MISSING, **data)]
    wrong = [
        int(rank)
        for rank, one in results.items()
        if any(one.get(key) is False for key in ("right", "ring", "captured"))
    ]
    if wrong:
        text = f"{title} finishes with WRONG numbers on {view.names(wrong)}: no result of a collective can be trusted"
        return [found(test, Status.FAIL, text, **data)]
    if all(one.get("right") for one in results.values()):
        more = (
            " eagerly, in a ring and inside a CUDA graph"
            if all(one.get("captured") for one in results.values())
            else " in an all-reduce and in a ring"
        )
        return [
            found(test, Status.OK, f"{title} over {len(results)} nodes give the right numbers{more}", **data)
        ]
    return [_failed(view, backend, told, data)]


def _failed(view: View, backend: str, told: Mapping[str, Any], data: dict[str, Any]) -> Finding:
    test, _, title = TITLES[backend]
    results: Results = told["all"]
    bad = {int(rank): one for rank, one in results.items() if not one.get("right")}
    said = "; ".join(
        f"{view.name(rank)} in {one.get('phase', '?')}: {str(one.get('message', '')).splitlines()[0][:140] if one.get('message') else '?'}"
        for rank, one in list(bad.items())[:3]
    )
    text = f"{title} over {len(results)} nodes fails with the launch's own variables ({said})"
    helped = next((one for one in told["changed"] if one["right"]), None)
    if helped is not None:
        setting = ", ".join(f"{name}={value}" for name, value in helped["set"].items())
        fix = {
            "do": f"Set {setting} for all ranks, or repair what it goes round.",
            "settings": dict(helped["set"]),
            "risk": "restarts-job",
        }
        more = {"cause": helped["cause"]} if helped["cause"] else {}
        return found(
            test,
            Status.FAIL,
            f"{text}; it passes with {setting}",
            fix=fix,
            changed=dict(helped["set"]),
            **more,
            **data,
        )
    graph = all("CUDA graph" in str(one.get("phase")) for one in bad.values())
    cause = cause_of(
        *(str(one.get("message")) for one in bad.values()),
        *(line for one in bad.values() for line in one.get("said", ())),
    )
    if cause is None:
        cause = (
            "cudagraph-capture-hang"
            if graph
            else "rendezvous-timeout"
            if all(one.get("phase") == "TCPStore" for one in bad.values())
            else None
        )
    if graph:
        text += "; the same all-reduce passes eagerly"
    text += _pairs(view, told["pairs"], data)
    if told["untried"]:
        text += f"; no time was left for: {', '.join(told['untried'][:4])}"
    return found(test, Status.FAIL, text, cause=cause, certain=False, **data)


def _pairs(view: View, pairs: Mapping[str, Results], data: dict[str, Any]) -> str:
    """What smaller groups add: the node or pair in all failing ones, or that each passes alone."""
    tried = {
        tuple(map(int, name.split("-"))): bool(one) and all(each.get("right") for each in one.values())
        for name, one in pairs.items()
        if one
    }
    if not tried:
        return ""
    failing = [group for group, right in tried.items() if not right]
    if not failing:
        return f"; each of {len(tried)} smaller groups passes: it shows at full size only"
    smallest = min(failing, key=len)
    two = [group for group in failing if len(group) == 2]
    if len(two) > 1:
        pairs_tried = [group for group in tried if len(group) == 2]
        both_ways = [[(a, b) for one in groups for a, b in (one, one[::-1])] for groups in (two, pairs_tried)]
        blamed = blame(sorted({rank for group in tried for rank in group}), *both_ways)
        if len(blamed) == 1 and blamed[0][0] is not None:
            rank = blamed[0][0]
            data["host"] = view.host(rank)
            return f"; every pair with {view.name(rank)} fails, the others pass"
    if len(smallest) == 2:
        data["link"] = [view.host(rank) for rank in smallest]
    return f"; of {len(tried)} smaller groups {len(failing)} fail: {'; '.join(view.names(group) for group in failing[:3])}"


def _not_climbed(view: View, backend: str) -> Finding:
    """Why a backend was left out, with its reason: never passed over."""
    test, rung, title = TITLES[backend]
    title = f"{title} between the nodes"
    has = {rank: card.get("abilities") or {} for rank, card in view.cards.items()}
    if any(rung not in one.get("rungs", ()) for one in has.values()):
        return found(
            test, Status.SKIP, f"{title}: not asked for", reason=Reason.NOT_ASKED, remedy=f"--only {rung}"
        )
    if backend == "nccl" and not any(one.get("gpus") for one in has.values()):
        return found(
            test, Status.SKIP, f"{title}: no node has a GPU that diag has seen", reason=Reason.NOT_APPLICABLE
        )
    without = [rank for rank, one in has.items() if not one.get("torch")]
    if len(has) - len(without) < 2:
        text = f"{title} not tried: no torch on {view.names(without)} ({has[without[0]].get('torch_from')})"
        return found(
            test,
            Status.SKIP,
            text,
            reason=Reason.TOOL_MISSING,
            remedy="give the launch's interpreter with --python",
        )
    busy = [rank for rank, one in has.items() if one.get("gpus") and one.get("busy") is not False]
    if backend == "nccl" and busy:
        text = f"{title} not tried: on {view.names(busy)} processes are on the GPUs, or it is not known that none is"
        return found(
            test, Status.SKIP, text, reason=Reason.NOT_ASKED, remedy="run diag again when the GPUs are free"
        )
    if any(not link.open for link in view.links) or view.silent:
        return found(
            test,
            Status.SKIP,
            f"{title} not tried: the ladder ended at the connections below it",
            reason=Reason.NOT_APPLICABLE,
        )
    return found(test, Status.UNKNOWN, f"{title}: no result", reason=Reason.TIMEOUT)


# ports of services


def _services(view: View) -> list[Finding]:
    """Ports that a disaggregated launch needs besides: NIXL's side channel, SGLang's bootstrap port."""
    names = sorted({name for link in view.links if link.open for name in link.seen.get("services") or {}})
    result = []
    for name in names:
        tried = [link for link in view.links if link.open and name in (link.seen.get("services") or {})]
        port = tried[0].seen["services"][name]["port"]
        closed = {
            (link.a, link.b): link.seen["services"][name]["outcome"]
            for link in tried
            if link.seen["services"][name]["outcome"] != "ok"
        }
        if not closed:
            text = f"{name} (port {port}) can be reached in {len(tried)} directions"
            result.append(found("services", Status.OK, text, subject=name))
            continue
        for rank, ends in blame(view.ranks, list(closed), [(link.a, link.b) for link in tried]):
            result.append(_service(view, name, port, rank, ends, closed))
    return result


def _service(
    view: View,
    name: str,
    port: int,
    rank: int | None,
    ends: Sequence[tuple[int, int]],
    closed: Mapping[tuple[int, int], str],
) -> Finding:
    target = rank if rank is not None and all(b == rank for _, b in ends) else ends[0][1]
    held = (view.cards[target].get("services") or {}).get(name) or {}
    local = [one for one in held.get("bound") or () if one.startswith("127.") or one == "::1"]
    if rank == target and local and len(local) == len(held["bound"]):
        text = f"{name} on {view.name(target)} listens on {local[0]}:{port} only: no other node can reach it"
        fix = {
            "do": "Set VLLM_NIXL_SIDE_CHANNEL_HOST to this node's own address, on every node.",
            "risk": "restarts-job",
        }
        return found(
            "services",
            Status.FAIL,
            text,
            subject=name,
            cause="host-ip-wrong",
            host=view.host(target),
            port=port,
            fix=fix,
        )
    how = (
        "packets vanish (dropped)"
        if "timeout" in {closed[one] for one in ends}
        else "connections are refused"
    )
    if rank is None:
        where = f"from {view.name(ends[0][0])} to {view.name(ends[0][1])}"
        data: dict[str, Any] = {"link": [view.host(end) for end in ends[0]]}
    elif all(b == rank for _, b in ends):
        where, data = f"to {view.name(rank)} from any other node", {"host": view.host(rank)}
    elif all(a == rank for a, _ in ends):
        where, data = f"from {view.name(rank)} to any other node", {"host": view.host(rank)}
    else:
        where, data = f"between {view.name(rank)} and the others", {"host": view.host(rank)}
    text = f"{name} (port {port}) is closed {where}: {how}; other ports of the same nodes are open"
    fix = {
        "do": f"Open TCP port {port} between the nodes (one port more for each further rank of a node).",
        "risk": "needs-root",
    }
    return found(
        "services", Status.FAIL, text, subject=name, cause="network-unreachable", port=port, fix=fix, **data
    )


# KV transfer


def _transfer(view: View) -> list[Finding]:
    told = view.facts["transfer"]
    if not told:
        return [_no_transfer(view)]
    result = _transfers(view, told, "")
    if told.get("vram"):
        result += [
            replace(one, data={**one.data, "proven_on_gpu": False})
            for one in _transfers(view, told["vram"], "GPU ")
        ]
    return result


def _transfers(view: View, told: Mapping[str, Any], kind: str) -> list[Finding]:
    """What reading one kind of memory gave."""
    result = []
    broken = {int(rank): one for rank, one in told["nodes"].items() if one.get("error")}
    for rank, one in list(broken.items())[:6]:
        devices = ((view.cards[rank].get("abilities") or {}).get("settings") or {}).get("UCX_NET_DEVICES")
        chosen = f" with UCX_NET_DEVICES={devices}" if devices else ""
        text = f"NIXL on {view.name(rank)} fails to {one['phase']}{chosen}: {one['error'][:200]}{_said(one)}"
        result.append(
            found(
                "nixl",
                Status.FAIL,
                text,
                subject=f"node {rank}",
                cause="ucx-wrong-interface" if devices else "nixl-ucx-error",
                host=view.host(rank),
                said=one.get("said", []),
            )
        )
    reads = {tuple(map(int, name.split(">"))): one for name, one in told["links"].items()}
    for wanted in ("timeout", "error", "wrong-data"):
        bad = [(a, b) for (a, b), one in reads.items() if one["outcome"] == wanted]
        for node, ends in blame(
            sorted({end for pair in reads for end in pair}), bad, [(a, b) for a, b in reads]
        ):
            result.append(_bad_read(view, told, wanted, node, ends, reads[ends[0][0], ends[0][1]]))
    if not result and reads:
        slowest = max(float(one.get("ms") or 0) for one in reads.values())
        text = f"NIXL reads {kind}memory of each other over UCX in {len(reads)} directions (slowest {slowest:.0f} ms, connecting included){_lanes(told)}"
        result.append(found("nixl", Status.OK, text, lanes=_all_lanes(told)))
    return result or [
        found("nixl", Status.UNKNOWN, "KV transfer with NIXL: no result", reason=Reason.TIMEOUT)
    ]


def _bad_read(
    view: View,
    told: Mapping[str, Any],
    outcome: str,
    rank: int | None,
    ends: Sequence[tuple[int, int]],
    first: Mapping[str, Any],
) -> Finding:
    a, b = ends[0]
    reader = told["nodes"].get(str(a), {})
    where = (
        f"between {view.name(rank)} and the others"
        if rank is not None
        else f"by {view.name(a)} from {view.name(b)}"
    )
    how = {
        "timeout": "never ends",
        "error": f"fails in state {first.get('state')}",
        "wrong-data": "brings WRONG data",
    }[outcome]
    text = f"a KV read with NIXL {where} {how} ({first.get('message') or 'no message'}), though TCP passes{_lanes(told, a)}{_said(reader)}"
    data: dict[str, Any] = (
        {"host": view.host(rank)} if rank is not None else {"link": [view.host(a), view.host(b)]}
    )
    settings = (view.cards[a].get("abilities") or {}).get("settings") or {}
    if settings:
        text += f"; set: {', '.join(f'{name}={value}' for name, value in settings.items())}"
    cause = {"timeout": "kv-transfer-hang", "error": "nixl-ucx-error"}.get(outcome)
    if outcome != "wrong-data" and "UCX_NET_DEVICES" in settings:
        cause = "ucx-wrong-interface"
    return found(
        "nixl",
        Status.FAIL,
        text,
        subject=f"node {rank}" if rank is not None else f"{view.host(a)} - {view.host(b)}",
        cause=cause,
        **data,
    )


def _all_lanes(told: Mapping[str, Any]) -> list[str]:
    return sorted(
        {
            lane
            for one in told["nodes"].values()
            for lane in one.get("lanes") or ()
            if lane.startswith("inter-node") or "intra" in lane
        }
    )


def _lanes(told: Mapping[str, Any], rank: int | None = None) -> str:
    """The devices UCX chose, as it logs them."""
    lanes = (told["nodes"].get(str(rank), {}).get("lanes") or []) if rank is not None else _all_lanes(told)
    return f"; UCX chose {lanes[0].partition(': ')[2][:100]}" if lanes else ""


def _said(one: Mapping[str, Any]) -> str:
    return f"; it says: {one['said'][-1][:160]}" if one.get("said") else ""


def _no_transfer(view: View) -> Finding:
    has = {rank: card.get("abilities") or {} for rank, card in view.cards.items()}
    if any("link.nixl" not in one.get("rungs", ()) for one in has.values()):
        return found(
            "nixl",
            Status.SKIP,
            "KV transfer with NIXL: not asked for",
            reason=Reason.NOT_ASKED,
            remedy="--only link.nixl",
        )
    without = [rank for rank, one in has.items() if not one.get("nixl")]
    if len(has) - len(without) < 2:
        some = f"not on {view.names(without)}" if len(without) < len(has) else "on no node"
        text = f"KV transfer with NIXL: nixl is installed {some}, for the interpreter of the launch"
        return found(
            "nixl",
            Status.SKIP,
            text,
            reason=Reason.NOT_APPLICABLE if len(without) == len(has) else Reason.TOOL_MISSING,
            remedy="--python PATH",
        )
    return found("nixl", Status.UNKNOWN, "KV transfer with NIXL: no result", reason=Reason.TIMEOUT)
