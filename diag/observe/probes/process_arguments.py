"""How the launch was really started here: arguments of its processes, and the NCCL plug-ins it finds. Compared between nodes.

A node whose script has another tensor-parallel size, model or port waits for peers that never come. Plug-ins (libnccl-net*,
libnccl-tuner*, libnccl-profiler*) are found through LD_LIBRARY_PATH and the places where clouds put them; NCCL_NET_PLUGIN set,
and the library on one node only, ends in different networks or none.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

from diag.model import Finding, Reason, Status
from diag.observe.probes.interface import Facts, Probe, Setup, finding
from diag.observe.probes.wording import count, listed
from diag.system import Root
from diag.system.jobs import entry_point, find_job
from diag.system.processes import read_environment

ID = "process.arguments"
MOST = 64
SECRET = re.compile(r"key|token|secret|passw|credential", re.IGNORECASE)
SYSTEM = (
    "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/local/lib", "/opt/amazon/ofi-nccl/lib",
    "/opt/amazon/ofi-nccl/lib/x86_64-linux-gnu", "/opt/hpcx/nccl_rdma_sharp_plugin/lib", "/usr/local/nccl-rdma-sharp-plugins/lib",
    "/usr/local/gib/lib64", "/usr/local/tcpxo/lib64", "/var/lib/tcpx/lib64", "/usr/local/nvidia/lib64",
)  # fmt: skip
"""Where distributions, AWS, HPC-X, Azure and Google's images put NCCL plug-ins."""
PLUGIN = re.compile(r"libnccl-(net|tuner|profiler|env)[\w-]*\.so[\d.]*")
BUILT_IN = ("none", "socket", "ib")


def collect(setup: Setup) -> Facts:
    """Arguments of each process of the launch (secrets left out), and plug-ins by folder."""
    processes, folders = [], set(SYSTEM)
    wanted = setup.env.get("NCCL_NET_PLUGIN")
    environments = [setup.env]
    for member in find_job(setup.root)[:MOST]:
        if not (member.computes or member.role in ("launcher", "frontend", "router")):
            continue
        argv = member.process.argv
        program = PurePosixPath(entry_point(argv) or "").name
        processes.append({
            "who": member.label, "framework": member.framework, "role": member.role, "program": program,
            "arguments": arguments_of(argv),
        })  # fmt: skip
        environments.append(read_environment(setup.root, member.process.pid) or {})
    for env in environments:
        folders |= {one for one in env.get("LD_LIBRARY_PATH", "").split(":") if one.startswith("/")}
        wanted = wanted or env.get("NCCL_NET_PLUGIN")
    return {"processes": processes, "plugins": _plugins(setup.root, sorted(folders)), "wanted": wanted}


def arguments_of(argv: tuple[str, ...]) -> dict[str, str]:
    """`--name value`, `--name=value` and `--flag`, by name with dashes; what may be a secret has no value."""
    told: dict[str, str] = {}
    for place, word in enumerate(argv):
        if not re.match(r"--?[a-zA-Z]", word):
            continue
        name, equals, value = word.partition("=")
        following = argv[place + 1] if place + 1 < len(argv) else ""
        if not equals and following and not re.match(r"--?[a-zA-Z]", following):
            value = following
        name = "--" + name.lstrip("-").replace("_", "-") if name.startswith("--") else name
        told[name] = "(not shown)" if SECRET.search(name) else value[:200]
    return told


def _plugins(root: Root, folders: list[str]) -> list[str]:
    return sorted(
        {
            f"{folder}/{name}"
            for folder in folders[:64]
            for name in root.names(folder)
            if PLUGIN.fullmatch(name)
        }
    )[:32]


def judge(facts: Facts) -> list[Finding]:
    """A statement; a fault only where a plug-in is asked for by name and no file of that name is there."""
    processes, plugins, wanted = facts["processes"], facts["plugins"], facts["wanted"]
    found = []
    if wanted and wanted.lower() not in BUILT_IN and not wanted.startswith("/"):
        names = {PurePosixPath(one).name for one in plugins}
        if not any(wanted in (name, name.partition(".so")[0].removeprefix("libnccl-net-")) for name in names):
            text = f"NCCL_NET_PLUGIN={wanted}, but no such plug-in lies in LD_LIBRARY_PATH or where clouds put them"
            found.append(finding(ID, Status.WARN, text, subject="NCCL_NET_PLUGIN"))
    shown = listed((PurePosixPath(one).name for one in plugins), 4) if plugins else "none"
    if not processes:
        text = f"no process of a launch runs here; NCCL plug-ins: {shown}"
        return [*found, finding(ID, Status.SKIP, text, reason=Reason.NOT_APPLICABLE)]
    roles = listed(sorted({f"{one['framework']} {one['role']}" for one in processes}))
    return [
        *found,
        finding(
            ID,
            Status.OK,
            f"{count(len(processes), 'process')} with arguments ({roles}); NCCL plug-ins: {shown}",
        ),
    ]


PROBE = Probe(ID, "Arguments and plug-ins of the launch", collect, judge, section="software")


def common(processes: list[dict[str, Any]]) -> dict[str, str]:
    """Arguments that all processes of this node which have them agree on, by `program --name`."""
    values: dict[str, set[str]] = {}
    for one in processes:
        for name, value in one["arguments"].items():
            values.setdefault(f"{one['program']} {name}", set()).add(value)
    return {name: next(iter(told)) for name, told in values.items() if len(told) == 1}
