"""What the names of log files tell: the machine a file was written on. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from diag.system.lazy import lazily

_GENERIC = lazily(r"(?:node|rank|log|worker|run|job|out|err|part|gpu|pod|attempt|stage|step|r)?[-_.]?\d*\Z")
_NAME_PREFIX = lazily(
    r"(?:dmesg|syslog|kern|messages|log|journal|slurm|train|vllm|sglang|stderr|stdout|nccl)[-_.]"
)


_NAME_SUFFIX = lazily(r"[-_.](?:dmesg|kmsg|syslog|journal)$")


def _host_in_name(name: str) -> str | None:
    """`dmesg-cn-234.txt` -> cn-234; names that number files tell nothing."""
    stem = name.rsplit("/", 1)[-1].split(".", maxsplit=1)[0]
    stripped = _NAME_SUFFIX.sub("", _NAME_PREFIX.sub("", stem))
    if "_" in stripped:  # no machine's name has one
        return None
    if not re.search(r"[a-z]", stripped) or not re.search(r"\d", stripped) or _GENERIC.match(stripped):
        return None
    return stripped if stripped != stem else None


_KIND_OF_LOG = lazily(
    r"(?:^|[-_.])(?:dmesg|kmsg|syslog|journal|nvidia-smi|smi|gdb|pyspy|py-spy|stack|stacks|ps|dump|err|out|log)(?=$|[-_.])"
)
_NUMBER = lazily(r"\d+(?=[a-z]?$)|(?<=[-_])[a-z]$")


def hosts_in_names(names: Sequence[str]) -> list[str | None]:
    """`gpu-a02.log` beside `gpu-a04.log` are named after machines; `rank0.log` beside `rank1.log` are not."""
    stems = [name.rsplit("/", 1)[-1].split(".", maxsplit=1)[0] for name in names]
    stems = [_KIND_OF_LOG.sub("", stem).strip("-_") for stem in stems]
    shapes = [
        _NUMBER.sub("#", stem) if "-" in stem and _NUMBER.search(stem) and not _NUMBERED.match(stem) else ""
        for stem in stems
    ]
    different: dict[str, set[str]] = {}
    for stem, shape in zip(stems, shapes, strict=True):
        different.setdefault(shape, set()).add(stem)
    return [
        stem if shape and len(different[shape]) > 1 else _host_in_name(name)
        for name, stem, shape in zip(names, stems, shapes, strict=True)
    ]


_NUMBERED = lazily(
    r"(?:.*[-_.])?(?:node|rank|log|worker|run|job|out|err|part|gpu|pod|attempt|stage|step|r|try|restart|host|task|slurm|"
    r"prefill|decode|train|serve|server|vllm|tp|dp|pp|v|proc|process|container|replica|engine|actor|pid|try)[-_.]?\d*[a-z]?\Z"
)
