"""The ladder's upper rungs: collectives over gloo and NCCL here, KV transfers in `transfers`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diag.diagnose.nodes.blame import blame
from diag.diagnose.nodes.transfers import judge_services, judge_transfer
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
    return [
        *_collective(view, "gloo"),
        *_collective(view, "nccl"),
        *judge_services(view),
        *judge_transfer(view),
    ]


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
    late = {int(rank): one["message"] for rank, one in results.items() if one.get("slow_start")}
    if late:
        text = f"{title} between the nodes not reached: on {view.names(late)} {next(iter(late.values()))}"
        return [
            found(
                test,
                Status.UNKNOWN,
                text,
                reason=Reason.TIMEOUT,
                remedy="run diag again when the nodes are less busy",
                **data,
            )
        ]
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
