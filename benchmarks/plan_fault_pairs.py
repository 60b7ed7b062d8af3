"""Faults of pairs of workers and of variables. Used by `plan_fault_kinds.py`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from plan_fault_makers import OTHER_CHIPS, Edited, _edit
from plan_fault_text import only_engine, option
from plan_text import TP, launches, plain_lines


def both_roles(role: str, other: str) -> Callable[[str], Iterator[Edited]]:
    """Every worker of a pair with one role."""

    def make(text: str) -> Iterator[Edited]:
        plain = plain_lines(text)
        pattern = rf"(--disaggregation-mode{'(?:[= ]+|[^a-zA-Z]*?-[^a-zA-Z]*)'}){other}\b"
        if (
            re.search(rf"--disaggregation-mode[^a-zA-Z]+{role}\b", plain)
            and len(re.findall(pattern, plain)) == 1
            and "$" not in plain
        ):
            yield Edited(re.sub(pattern, rf"\g<1>{role}", text), f"{other} -> {role}")

    return make


def one_kv_role(text: str) -> Iterator[Edited]:
    """Producer on both sides."""
    if "kv_producer" in text and "kv_consumer" in text and "kv_both" not in text:
        yield Edited(text.replace("kv_consumer", "kv_producer"), "kv_consumer -> kv_producer")


def other_connector(text: str) -> Iterator[Edited]:
    """One side of a pair hands over with another connector."""
    found = list(re.finditer(r"kv_connector\\?[\"']\s*:\s*\\?[\"'](NixlConnector)", plain_lines(text)))
    roles = re.search(r"kv_producer|disaggregation-mode[^a-z]+prefill|is-prefill-worker", plain_lines(text))
    if len(found) == 2 and roles and "kv_consumer" in text + ("kv_consumer" if "isagg" in text else ""):
        yield Edited(
            text[: found[1].start(1)] + "P2pNcclConnector" + text[found[1].end(1) :], "P2pNcclConnector"
        )


def broken_json(text: str) -> Iterator[Edited]:
    """A brace lost in --kv-transfer-config."""
    match = re.search(r"(kv-transfer-config[^{}$\n]*(?:\n\s*-\s*)?'\{[^{}$\n]*)\}'", plain_lines(text))
    if match is not None:
        yield Edited(text[: match.end(1)] + text[match.end(1) + 1 :], "closing brace lost")


def pair_differs(names: str, new: str) -> Callable[[str], Iterator[Edited]]:
    """A setting that both sides of a pair share, changed on one side."""

    def make(text: str) -> Iterator[Edited]:
        plain = plain_lines(text)
        if not re.search(r"disaggregation-mode[^a-zA-Z]+prefill|is-prefill-worker", plain) or "$" in plain:
            return
        first = option(text, names)
        if (
            first is not None
            and len(re.findall(rf"--(?:{names})(?![\w-])", plain)) == 2
            and first.group(2) != new
        ):
            yield from _edit(text, first, new)

    return make


def variable(program: str, name: str, value: str, needs: str = "") -> Callable[[str], Iterator[Edited]]:
    """One more variable in the environment of a container or a script."""

    def make(text: str) -> Iterator[Edited]:
        plain = plain_lines(text)
        if (
            (program and only_engine(text) != program)
            or re.search(rf"{name}\b", text)
            or (needs and not re.search(needs, plain))
            or OTHER_CHIPS.search(text)
        ):
            return
        item = re.search(r"(?m)^(\s*)- name: [A-Z][A-Z_]+\n\1  value: .*\n", plain)
        export = re.search(r"(?m)^export [A-Z][A-Z_]+=\S+\n", plain)
        if item is not None and "kind:" in plain:
            new = f'{item.group(1)}- name: {name}\n{item.group(1)}  value: "{value}"\n'
            yield Edited(text[: item.start()] + new + text[item.start() :], f"{name}={value}")
        elif export is not None and "kind:" not in plain:
            yield Edited(
                text[: export.start()] + f"export {name}={value}\n" + text[export.start() :],
                f"{name}={value}",
            )

    return make


def misspelt_variable(text: str) -> Iterator[Edited]:
    """A letter lost in the name of one of NCCL's or the engine's variables."""
    match = re.search(
        r"(?:name: |export |-e )(NCCL_SOCKET_IFNAME|NCCL_IB_HCA|NCCL_IB_DISABLE|NCCL_IB_GID_INDEX|GLOO_SOCKET_IFNAME|VLLM_NIXL_SIDE_CHANNEL_HOST|VLLM_WORKER_MULTIPROC_METHOD|VLLM_USE_DEEP_GEMM)(?=[=\n])",
        plain_lines(text),
    )
    if match is not None:
        name = match.group(1)
        at = name.rindex("_") + 2
        yield Edited(
            text[: match.start(1)] + name[:at] + name[at + 1 :] + text[match.end(1) :],
            f"{name[:at]}{name[at + 1 :]}",
        )


def visible(value: str) -> Callable[[str], Iterator[Edited]]:
    """CUDA_VISIBLE_DEVICES that does not suit the ranks."""

    def make(text: str) -> Iterator[Edited]:
        sizes = {int(size) for _, size in re.findall(TP, plain_lines(text))}
        if (
            sizes
            and min(sizes) >= 2
            and launches(text)
            and not re.search(r"nnodes|nodeCount|LeaderWorkerSet|Ray|DynamoGraph", text)
        ):
            yield from variable("", "CUDA_VISIBLE_DEVICES", value)(text)

    return make
