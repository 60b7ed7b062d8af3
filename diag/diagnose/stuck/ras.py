"""What NCCL's RAS services tell of a job, joined over nodes: who has not launched what the others have. Pure.

Launched is not finished: where all ranks have launched the same and stand still, no rank is late, and the GPUs, the network or the
library hold the job up, or nobody asks it for anything. A rank that is late somewhere because it waits for others elsewhere is a
victim; counters that move accuse nobody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diag.diagnose.ranges import fold
from diag.diagnose.stuck.process import PROBE as PROCESS
from diag.model import Finding, Status

SEEN = "attach.ras"
PROBE = "attach.ras-verdict"
LONG_WAIT_S = 30.0
HOLDERS = ("stopped", "blocked", "gil", "stuck")
MOST = 8

Data = Mapping[str, Any]
Place = Mapping[str, Any]
Key = tuple[str, int, int]


def ras_seen(answers: Sequence[Data], host: str) -> list[Finding]:
    """One finding for each service that answered; it keeps all that was told, for reports that are joined later."""
    found = []
    for one in answers:
        if "error" in one:
            continue
        comms = one["communicators"]
        text = (
            f"NCCL {one['version']} tells of {_count(len(comms), 'communicator')}"
            if comms
            else f"NCCL {one['version']}'s RAS answers"
        )
        if one["span_s"]:
            text += f" (asked twice within {one['span_s']:.0f} s)"
        found.append(
            Finding(SEEN, str(one["address"]), Status.OK, text, None, {"host": host, "ras": dict(one)})
        )
    return found


def judge_ras(findings: Sequence[Finding]) -> list[Finding]:
    """What all services together say, each communicator once."""
    seen = [one for one in findings if one.probe == SEEN]
    if not seen:
        return []
    known = _processes(findings, seen)
    comms: dict[str, tuple[Data, float]] = {}
    for one in seen:
        for comm in one.data["ras"]["communicators"]:
            span = float(one.data["ras"]["span_s"])
            if comm["hash"] not in comms or span > comms[comm["hash"]][1]:
                comms[comm["hash"]] = (comm, span)
    found = _lost([comm for comm, _ in comms.values()], known)
    found += _errors([comm for comm, _ in comms.values()], known)
    still = {name: (comm, span) for name, (comm, span) in comms.items() if comm["still"]}
    found += _desync(still, known) or _late(still, known)
    found += _states(still, known)
    return found or _equal(comms)


def _processes(findings: Sequence[Finding], seen: Sequence[Finding]) -> dict[tuple[str, int], Data]:
    """(host, pid) as RAS calls a process -> what was seen of it on its own node."""
    looked = {(one.data["host"], one.data["pid"]): one.data for one in findings if one.probe == PROCESS}
    known: dict[tuple[str, int], Data] = {}
    for one in seen:
        for comm in one.data["ras"]["communicators"]:
            for place in _places(comm):
                process = looked.get((one.data["host"], place.get("here")))
                if process is not None:
                    known[place["host"], place["pid"]] = process
    return known


def _places(comm: Data) -> list[Place]:
    groups = [*comm["states"], *comm["errors"], *(group for op in comm["ops"].values() for group in op)]
    return [*comm["missing"], *(place for group in groups for place in group["ranks"])]


def _key(place: Place) -> Key:
    return str(place.get("host", "")), int(place.get("pid", -1)), int(place.get("gpu", -1))


def _process(place: Place, known: Mapping[tuple[str, int], Data]) -> Data:
    return known.get((str(place.get("host", "")), int(place.get("pid", -1))), {})


def _rank(place: Place, comm: Data, known: Mapping[tuple[str, int], Data]) -> int | None:
    """The rank in the job: as its own process tells, else its number in a communicator of the whole job."""
    process = _process(place, known)
    if "rank" in process:
        return int(process["rank"])
    worlds = {one.get("world_size") for one in known.values()}
    return int(place["rank"]) if worlds == {comm["size"]} else None


def _named(place: Place, comm: Data, known: Mapping[tuple[str, int], Data]) -> str:
    rank = _rank(place, comm, known)
    name = f"rank {rank}" if rank is not None else f"rank {place['rank']} of a communicator"
    if rank is None and comm["size"]:
        name += f" of {comm['size']}"
    at = f"pid {place['pid']} on {place['host']}" if "pid" in place else ""
    return f"{name} ({at})" if at else name


def _culprit(places: Sequence[tuple[Place, Data]], known: Mapping[tuple[str, int], Data]) -> dict[str, Any]:
    """For the finding's data: who it is, where exactly one is meant."""
    ranks = sorted({rank for place, comm in places if (rank := _rank(place, comm, known)) is not None})
    told: dict[str, Any] = {"ranks": ranks, "culprit": True}
    if len({_key(place) for place, _ in places}) == 1:
        place, _ = places[0]
        process = _process(place, known)
        told["host"] = process.get("host") or place.get("host")
        told |= {"rank": ranks[0]} if ranks else {"component": f"process {place.get('pid')}"}
    return {name: value for name, value in told.items() if value is not None}


def _lost(comms: Sequence[Data], known: Mapping[tuple[str, int], Data]) -> list[Finding]:
    """Processes that RAS cannot reach. The widest communicator tells of each."""
    found: dict[Key, tuple[Place, Data]] = {}
    for comm in sorted(comms, key=lambda one: -int(one["size"])):
        for place in comm["missing"]:
            found.setdefault(_key(place), (place, comm))
    result = []
    for dead in (True, False):
        those = [(place, comm) for place, comm in found.values() if bool(place["dead"]) is dead]
        if not those:
            continue
        names = ", ".join(_named(place, comm, known) for place, comm in those[:MOST])
        if dead:
            text = f"NCCL's RAS has given up {names}: not to be reached for a minute"
            data = {"cause": "worker-died", "certain": False, **_culprit(those, known)}
            result.append(Finding(PROBE, "dead", Status.FAIL, text, None, {**data, "kind": "dead"}))
        else:
            text = f"NCCL's RAS gets no answer from {names}: stopped, dead, or its node cannot be reached"
            data = {"kind": "unresponsive", "unexplained": True, **_culprit(those, known)}
            result.append(Finding(PROBE, "unresponsive", Status.WARN, text, None, data))
    return result


def _errors(comms: Sequence[Data], known: Mapping[tuple[str, int], Data]) -> list[Finding]:
    """Errors that communicators hold; who lost a peer is not who began."""
    texts: dict[str, list[tuple[Place, Data]]] = {}
    for comm in comms:
        for group in comm["errors"]:
            texts.setdefault(str(group["value"]), []).extend((place, comm) for place in group["ranks"])
    if not texts:
        return []
    own = {error: places for error, places in texts.items() if error != "Remote process error"} or texts
    parts = [
        f"{', '.join(_named(place, comm, known) for place, comm in places[:MOST])}: {error}"
        for error, places in sorted(own.items())
    ]
    lost = len(texts.get("Remote process error", ())) if own is not texts else 0
    tail = f"; {lost} more only lost a peer" if lost else ""
    culprits = [one for places in own.values() for one in places]
    data = {"kind": "error", "errors": sorted(own), "unexplained": True, **_culprit(culprits, known)}
    return [
        Finding(PROBE, "error", Status.FAIL, f"NCCL holds an error on {'; '.join(parts)}{tail}", None, data)
    ]


def _desync(still: Mapping[str, tuple[Data, float]], known: Mapping[tuple[str, int], Data]) -> list[Finding]:
    """Ranks behind in one kind of collective and ahead in another have called something else."""
    for comm, span in still.values():
        behind: dict[Key, str] = {}
        ahead: dict[Key, str] = {}
        where: dict[Key, Place] = {}
        for op, groups in comm["ops"].items():
            top, low = max(one["value"] for one in groups), min(one["value"] for one in groups)
            for group in groups:
                for place in group["ranks"]:
                    where[_key(place)] = place
                    if group["value"] == low:
                        behind[_key(place)] = op
                    if group["value"] == top:
                        ahead[_key(place)] = op
        both = [key for key in behind if key in ahead and behind[key] != ahead[key]]
        if both:
            odd = [(where[key], comm) for key in _smallest(both, comm)]
            names = ", ".join(_named(place, comm, known) for place, _ in odd[:MOST])
            kinds = " and ".join(comm["ops"])
            text = f"ranks of one communicator have launched different collectives ({kinds}), unchanged for {span:.0f} s"
            text += (
                f": {names} departed from the others"
                if odd
                else "; which of them is wrong, counts do not tell"
            )
            data = {
                "cause": "collective-desync",
                "certain": False,
                "kind": "different",
                **(_culprit(odd, known) if odd else {}),
            }
            return [Finding(PROBE, "desync", Status.FAIL, text, None, data)]
    return []


def _smallest(keys: Sequence[Key], comm: Data) -> list[Key]:
    """The smaller of two camps, by the counts that each operation's groups give; none where it is a tie."""
    camps = [
        {_key(place) for place in group["ranks"]}
        for groups in comm["ops"].values() for group in groups
        if group["ranks"] and 2 * group["n"] < sum(one["n"] for one in groups)
    ]  # fmt: skip
    return [key for key in keys if camps and all(key in camp for camp in camps)]


def _late(still: Mapping[str, tuple[Data, float]], known: Mapping[tuple[str, int], Data]) -> list[Finding]:
    """Ranks that have launched less than the others, and do not wait for others in another communicator."""
    late: dict[Key, tuple[Place, Data, str]] = {}
    ahead: set[Key] = set()
    for comm, span in still.values():
        for op, groups in comm["ops"].items():
            top = max(one["value"] for one in groups)
            for group in groups:
                for place in group["ranks"]:
                    if group["value"] == top:
                        ahead.add(_key(place))
                        continue
                    text = f"{group['value']} of {top} {op} operations"
                    late.setdefault(_key(place), (place, comm, f"{text}, unchanged for {span:.0f} s"))
    roots = [one for key, one in late.items() if key not in ahead] or list(late.values())
    if not roots:
        return []
    places = [(place, comm) for place, comm, _ in roots]
    names = ", ".join(_named(place, comm, known) for place, comm in places[:MOST])
    has = "has" if len(roots) == 1 else "have"
    text = f"{names} {has} launched {roots[0][2]}; the others wait for {'it' if len(roots) == 1 else 'them'}"
    kinds = {str(_process(place, known).get("kind", "unknown")) for place, _ in places}
    waited = [float(one.get("still_s", 0)) for one in known.values() if one.get("kind") == "waits"]
    data: dict[str, Any] = {"kind": "late", **_culprit(places, known)}
    sure = len(late) == len(roots) or any(key not in ahead for key in late)
    accused = kinds <= {*HOLDERS, "dead"} or (
        kinds == {"unknown"} and max(waited, default=0.0) >= LONG_WAIT_S
    )
    if accused and sure:
        data |= {"cause": "collective-timeout-slow-rank", "certain": False}
        return [Finding(PROBE, "late", Status.FAIL, text, None, data)]
    if kinds & {"busy", "pause"}:
        text += (
            "; it still works: late, not stuck" if len(roots) == 1 else "; they still work: late, not stuck"
        )
    elif "unknown" in kinds:
        text += "; diag attach on its node tells what it does"
        data["unexplained"] = True
    return [Finding(PROBE, "late", Status.WARN, text, None, data)]


def _states(still: Mapping[str, tuple[Data, float]], known: Mapping[tuple[str, int], Data]) -> list[Finding]:
    """Ranks that have not come as far as the others in a communicator's life: still being made, aborted, gone."""
    for comm, span in still.values():
        groups = comm["states"]
        odd = [(place, comm) for group in groups[1:] for place in group["ranks"]]
        if not odd:
            continue
        parts = [
            f"{', '.join(_named(place, comm, known) for place in group['ranks'][:MOST])} {group['value']}"
            for group in groups[1:] if group["ranks"]
        ]  # fmt: skip
        text = f"a communicator is {groups[0]['value']} on {groups[0]['n']} ranks, but {'; '.join(parts)}, unchanged for {span:.0f} s"
        data = {"kind": "state", "unexplained": True, **_culprit(odd, known)}
        return [Finding(PROBE, "state", Status.WARN, text, None, data)]
    return []


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _equal(comms: Mapping[str, tuple[Data, float]]) -> list[Finding]:
    """Nothing differs: the job gets on, or no rank is late."""
    counted = [(comm, span) for comm, span in comms.values() if comm["launched"] is not None and span]
    if not counted:
        return []
    moved = [comm for comm, _ in counted if not comm["still"]]
    span = min(span for _, span in counted)
    if moved:
        text = f"collectives are launched (in {len(moved)} of {_count(len(counted), 'communicator')} within {span:.0f} s): the job gets on"
        return [Finding(PROBE, "moving", Status.OK, text, None, {"kind": "moving"})]
    sizes = (
        fold(sorted({int(comm["size"]) for comm, _ in counted})).removeprefix("ranks ").removeprefix("rank ")
    )
    text = (
        f"all ranks of {_count(len(counted), 'communicator')} (of {sizes} ranks) have launched the same, and nothing for {span:.0f} s: no rank is "
        "late; if work is due, the GPUs, the network or the library hold it up"
    )
    return [Finding(PROBE, "equal", Status.OK, text, None, {"kind": "equal"})]
