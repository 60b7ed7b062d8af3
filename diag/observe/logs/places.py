"""Where a piece of a pasted log was written: prompts, kubectl's and ssh's targets, `kubectl describe`.

A file may hold the output of several commands on several machines; each command tells where the lines below it come from.
"""

from __future__ import annotations

import re

from diag.system.lazy import lazily

_HOST = r"[A-Za-z][\w.-]*"
_PROMPT = lazily(
    rf"^(?:\([\w .-]{{1,40}}\) ?)?(?:[\w.-]+@(?P<host>{_HOST})[: ][^$#>]{{0,80}}|\[[\w.-]+@(?P<host2>{_HOST}) [^\]]{{1,60}}\]|\[(?P<host3>{_HOST}\d[\w.-]*)\]|\+|)\s?[$#] (?P<command>\S.*)$"
)
_DESCRIBED = lazily(r"^Name: {2,}(?P<host>[a-z0-9][a-z0-9.-]*[a-z0-9])$")
_RELAYS = lazily(r"(?:login|bastion|jump|head-?node|submit|gateway|laptop|mac)[\w-]*", re.IGNORECASE)
"""Machines that people type on: what they start there mostly runs elsewhere."""
_VERBS = ("logs", "exec", "describe", "top", "get", "cp", "debug", "attach")
_VALUED = (
    "-n",
    "--namespace",
    "-c",
    "--container",
    "-l",
    "--selector",
    "--context",
    "-o",
    "--tail",
    "--since",
)
_POD_LIKE = lazily(r"^(?:pods?/)?(?P<name>[a-z0-9]+(?:[.-][a-z0-9]+)+)$")
_SSH = lazily(r"^(?:sudo )?ssh (?:-\S+ (?:\w+=\S+ )?)*(?:\w+@)?(?P<host>[A-Za-z0-9][\w.-]*)\b")


def place_of(line: str) -> str | None:
    """The machine or pod that the lines after this one come from; None where the line does not tell."""
    described = _DESCRIBED.match(line)
    if described:
        return described["host"]
    prompt = _PROMPT.match(line)
    if prompt is None:
        return None
    command = prompt["command"]
    if re.match(r"(?:sudo )?(?:kubectl|oc|k) ", command):
        return _pod(command)
    ssh = _SSH.match(command)
    if ssh:
        return ssh["host"]
    host = prompt["host"] or prompt["host2"] or prompt["host3"]
    return None if host is None or _RELAYS.fullmatch(host.partition(".")[0]) else host


def _pod(command: str) -> str | None:
    """The pod that a kubectl command looks at, if it looks at one."""
    words = re.split(r" \| | -- ", command, maxsplit=1)[0].split()
    verb = next((number for number, word in enumerate(words) if word in _VERBS), None)
    if verb is None or (words[verb] in ("describe", "get") and not _about_a_pod(words[verb + 1 :])):
        return None
    skip = False
    for word in words[verb + 1 :]:
        if skip:
            skip = False
        elif word in _VALUED:
            skip = True
        elif not word.startswith("-"):
            found = _POD_LIKE.match(word)
            if found:
                return found["name"]
    return None


def _about_a_pod(words: list[str]) -> bool:
    return any(word in ("pod", "pods", "po") or word.startswith(("pod/", "pods/")) for word in words)
