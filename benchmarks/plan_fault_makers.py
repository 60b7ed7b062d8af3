"""How faults are made in the text of a plan. Used by `plan_fault_kinds.py`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from plan_fault_text import add, engine, option, put, rename
from plan_text import ELSEWHERE, TP, billions, launches, one_service, plain_lines, width

GPU = r"(?m)^(\s*(?:-\s*)?[\"']?nvidia\.com/gpu[\"']?\s*:\s*[\"']?)(\d+)([\"']?)"
OTHER_CHIPS = re.compile(r"(?i)cpu-|-cpu|tpu|neuron|npu|ascend|xpu|gaudi|\bamd\b|rocm|\bcpu\b.*image")
MEMORY = ("gpu-oom-weights", "gpu-oom-kv-cache", "gpu-oom-runtime")
COUNT = ("gpu-count-exceeded", "launcher-layout", "ray-resources-pending")
ARGUMENT = ("invalid-launch-argument",)
BACKEND = ("attention-backend-unsupported",)
PAIR = (
    "tp-mismatch-disagg",
    "kv-transport-unsupported",
    "disagg-prefill-not-enabled",
    "invalid-launch-argument",
)


@dataclass(frozen=True)
class Edited:
    """A broken text, and the node it is checked on where it must be another one than the plan's."""

    text: str
    what: str
    gpus: str = ""


@dataclass(frozen=True)
class Fault:
    """A kind of fault, how it is made, and the causes that name it rightly."""

    name: str
    make: Callable[[str], Iterator[Edited]]
    causes: tuple[str, ...]


def _edit(text: str, match: re.Match[str] | None, new: str, gpus: str = "") -> Iterator[Edited]:
    if match is not None:
        yield Edited(put(text, match, new), f"{match.group()} -> {new}", gpus)


def _anchor(text: str, program: str) -> re.Match[str] | None:
    """An option of this engine to write another one behind."""
    names = {
        "vllm": "tensor-parallel-size|max-model-len|gpu-memory-utilization|served-model-name|model",
        "sglang": "tp|tp-size|tensor-parallel-size|mem-fraction-static|context-length|model-path",
        "trtllm": "model-path|tp_size|max_batch_size|served-model-name",
        "torchrun": "nproc[-_]per[-_]node",
    }[program]
    match = option(text, names)
    return match if match is not None and engine(text, match.start()) == program else None


def adds(
    program: str,
    name: str,
    value: str | None = None,
    gpus: str = "",
    unless: str = "",
    also: tuple[tuple[str, str | None], ...] = (),
) -> Callable[[str], Iterator[Edited]]:
    """An option too many, or a wrong one."""

    def make(text: str) -> Iterator[Edited]:
        match = _anchor(text, program)
        if match is None or name in text or OTHER_CHIPS.search(text) or (unless and re.search(unless, text)):
            return
        broken = add(text, match, name, value)
        for first, second in also:  # before the other one
            broken = add(broken, match, first, second)
        yield Edited(broken, f"{name} {value or ''}", gpus)

    return make


def sets(
    program: str, names: str, new: str, gpus: str = "", value: str = r"[^\s\"',\\]+"
) -> Callable[[str], Iterator[Edited]]:
    """Another value for an option that is there."""

    def make(text: str) -> Iterator[Edited]:
        match = option(text, names, value)
        if new == "9000000" and not billions(text):
            return  # how long is too long depends on the model
        if match is not None and engine(text, match.start()) == program and not OTHER_CHIPS.search(text):
            yield from _edit(text, match, new, gpus)

    return make


def names(program: str, old: str, new: str) -> Callable[[str], Iterator[Edited]]:
    """The other engine's name for an option."""

    def make(text: str) -> Iterator[Edited]:
        match = option(text, old)
        if match is not None and engine(text, match.start()) == program:
            yield Edited(rename(text, match, new), f"{match.group(1)} -> {new}")

    return make


def swaps(
    pattern: str, new: str, *, needs: str = "", without: str = "", count: int = 1, gpus: str = ""
) -> Callable[[str], Iterator[Edited]]:
    """An expression replaced."""

    def make(text: str) -> Iterator[Edited]:
        plain = plain_lines(text)
        found = re.search(pattern, plain)
        if (
            found is None
            or (needs and not re.search(needs, plain))
            or (without and re.search(without, plain))
        ):
            return
        yield Edited(re.sub(pattern, new, text, count=count), f"{found.group()[:80]!r} -> {new!r}", gpus)

    return make


def bigger_model(text: str) -> Iterator[Edited]:
    """A model of 405 billion parameters where one of at most 40 stood, on few 80 GB GPUs."""
    match = option(text, "model|model-path")
    if match is None or not 0 < billions(text) <= 40 or not launches(text) or OTHER_CHIPS.search(text):
        return
    sizes = [int(size) for _, size in re.findall(TP, plain_lines(text))]
    if max(sizes, default=1) <= 4 and not re.search(r"pipeline|nnodes|nodeCount|quantization", text):
        yield from _edit(text, match, "meta-llama/Llama-3.1-405B-Instruct", "8xH100")


def smaller_share(text: str) -> Iterator[Edited]:
    """A share of the memory that does not even hold the weights (on the GPUs the plan was made for)."""
    match = option(text, "gpu-memory-utilization|mem-fraction-static", r"0?\.\d+")
    sizes = [int(size) for _, size in re.findall(TP, plain_lines(text))]
    if (
        match is None
        or not launches(text)
        or not one_service(text)
        or re.search(r"data.parallel|--dp|pipeline|nnodes|nodeCount|ep.size|expert", text)
    ):
        return
    need = billions(text) * 1e9 * width(text) / max(sizes)
    if need > 0.25 * 80e9:
        yield from _edit(text, match, "0.1", "8xH100")


def small_cards(text: str) -> Iterator[Edited]:
    """The plan of big cards on nodes of 8 L40S, where the weights are half as big again as all ranks' memory."""
    sizes = [int(size) for _, size in re.findall(TP, plain_lines(text))] or [1]
    if (
        re.search(r"data.parallel|--dp|pipeline|nnodes|nodeCount", text)
        or not launches(text)
        or OTHER_CHIPS.search(text)
    ):
        return
    if billions(text) * 1e9 * width(text) > 1.5 * max(sizes) * 48e9 and len(set(sizes)) == 1:
        yield Edited(text + "\n", "L40S", "8xL40S")


def gpus_gone(text: str) -> Iterator[Edited]:
    """No GPU granted at all to the one worker."""
    if (
        one_service(text)
        and len(re.findall(GPU, text)) in (1, 2)
        and not re.search("LeaderWorkerSet|claims|DynamoGraph|Ray|ServingRuntime", text)
    ):
        yield Edited(re.sub(GPU + r".*\n", "", text), "nvidia.com/gpu taken out")


def gpu_key(text: str) -> Iterator[Edited]:
    """The resource's name misspelt."""
    if re.search(GPU, text) and launches(text) and "DynamoGraph" not in text:
        yield Edited(re.sub(r"nvidia\.com/gpu(?=[\"']?\s*:)", "nvidia.com/gpus", text), "nvidia.com/gpus")


def limits_differ(text: str) -> Iterator[Edited]:
    """Requests that are not the limits: Kubernetes refuses that for GPUs."""
    found = list(re.finditer(GPU, text))
    if (
        len(found) == 2
        and len({each.group(2) for each in found}) == 1
        and found[0].group(2) != "1"
        and "requests" in text
        and "limits" in text
    ):
        yield Edited(
            text[: found[0].start(2)] + "1" + text[found[0].end(2) :], "one of limits and requests is 1"
        )


def backslash(text: str) -> Iterator[Edited]:
    """A line of a command that no longer ends in a backslash."""
    for match in re.finditer(r" \\\n(\s*--[a-z][\w-]+ [\w./]+ \\\n)", plain_lines(text)):
        if (
            engine(text, match.start()) in ("vllm", "sglang")
            and launches(text)
            and not re.search("echo|cat <<", text)
        ):
            yield Edited(text[: match.start()] + "\n" + text[match.start() + 3 :], "a backslash gone")
            return


def blank_after_backslash(text: str) -> Iterator[Edited]:
    """A blank behind the backslash: the line goes on no more."""
    for match in re.finditer(r" \\\n(\s*--[a-z][\w-]+ [\w./]+ \\\n)", plain_lines(text)):
        if (
            engine(text, match.start()) in ("vllm", "sglang")
            and launches(text)
            and not re.search("echo|cat <<", text)
        ):
            at = match.start() + 2
            yield Edited(text[:at] + " " + text[at:], "a blank behind a backslash")
            return


def dash(text: str) -> Iterator[Edited]:
    """A typographic dash instead of two hyphens, as word processors write it."""
    match = option(
        text, "tensor-parallel-size|max-model-len|mem-fraction-static|gpu-memory-utilization|context-length"
    )
    if match is not None and engine(text, match.start()) in ("vllm", "sglang"):
        yield Edited(text[: match.start(1)] + "–" + match.group(1)[2:] + text[match.end(1) :], "en dash")


def single_dash(text: str) -> Iterator[Edited]:
    """One hyphen instead of two."""
    match = option(
        text, "tensor-parallel-size|max-model-len|mem-fraction-static|gpu-memory-utilization|context-length"
    )
    if match is not None and engine(text, match.start()) in ("vllm", "sglang"):
        yield Edited(rename(text, match, match.group(1)[1:]), "single hyphen")


def no_value(text: str) -> Iterator[Edited]:
    """An option that lost its value, followed by the next one."""
    match = option(
        text, "max-model-len|max-num-seqs|context-length|mem-fraction-static|block-size", r"[\d.]+"
    )
    if (
        match is not None
        and text[match.end(1) : match.start(2)] == " "
        and re.match(r"[ \\\n]*--", text[match.end(2) :])
        and engine(text, match.start()) in ("vllm", "sglang")
    ):
        yield Edited(text[: match.end(1)] + text[match.end(2) :], f"{match.group(1)} without a value")


def probe_port(text: str) -> Iterator[Edited]:
    """A probe at a port where nobody listens."""
    pattern = (
        r"((?:livenessProbe|startupProbe): *\n(?: +\S.*\n){0,4}? +httpGet: *\n(?: +path.*\n)? +port: *)(\d+)"
    )
    match = re.search(pattern, plain_lines(text))
    served = option(text, "port", r"\d+")
    if (
        match is not None
        and served is not None
        and served.group(2) == match.group(2)
        and "DynamoGraph" not in text
        and one_service(text)
    ):
        yield Edited(text[: match.start(2)] + "8899" + text[match.end(2) :], "probe at port 8899")


def tp_of(new: str, without: str = "") -> Callable[[str], Iterator[Edited]]:
    """A tensor-parallel size that no number of heads of the usual models is a multiple of, with GPUs enough."""

    def make(text: str) -> Iterator[Edited]:
        match = re.search(TP, plain_lines(text))
        if (
            match is None
            or int(match.group(2)) < 2
            or not launches(text)
            or not billions(text)
            or OTHER_CHIPS.search(text)
            or "nvidia.com/gpu" in text
            or re.search(r"gpu:|isagg|nproc|nnodes|pipeline|--dp|data.parallel|--ep|DEVICES", text)
        ):
            return
        yield Edited(text[: match.start(2)] + new + text[match.end(2) :], f"TP {new}")

    return make


def world(text: str) -> Iterator[Edited]:
    """Megatron's pipeline over more stages than ranks divide into."""
    match = option(text, "pipeline-model-parallel-size", r"\d+")
    if match is not None and option(text, "nproc[-_]per[-_]node", r"\d+") and option(text, "nnodes", r"\d+"):
        yield from _edit(text, match, "7")


def slurm(pattern: str, new: str, needs: str) -> Callable[[str], Iterator[Edited]]:
    """An #SBATCH line that no longer suits the launcher's line."""
    return swaps(pattern, new, needs=needs)


def node_count(text: str) -> Iterator[Edited]:
    """A launcher told of one node more than Slurm gives."""
    match = option(text, "nnodes|num_machines", r"[2-9]|\d\d")
    said = re.search(r"#SBATCH (?:--nodes[= ]|-N ?)(\d+)", text)
    if match is not None and said is not None and said.group(1) == match.group(2):
        yield from _edit(text, match, str(int(match.group(2)) + 1))


def tiny_shm(text: str) -> Iterator[Edited]:
    """The memory behind /dev/shm limited to the very default."""
    match = re.search(r"(medium:\s*[\"']?Memory[\"']?\s*\n\s*sizeLimit:\s*[\"']?)(\d+\w+)", text)
    sizes = [int(size) for _, size in re.findall(TP, plain_lines(text))]
    if (
        match is not None
        and max(sizes, default=1) > 1
        and "/dev/shm" in text
        and "DynamoGraph" not in text
        and not OTHER_CHIPS.search(text)
    ):
        yield Edited(text[: match.start(2)] + "64Mi" + text[match.end(2) :], "sizeLimit 64Mi")


def host_memory(text: str) -> Iterator[Edited]:
    """A container whose memory limit is below what loading takes."""
    match = re.search(r"(?m)(limits: *\n(?: +\S.*\n){0,4}? +memory: *[\"']?)(\d+Gi)", text)
    if match is not None and billions(text) > 6 and one_service(text) and "DynamoGraph" not in text:
        yield Edited(text[: match.start(2)] + "2Gi" + text[match.end(2) :], "memory limit 2Gi")


def lws_size(text: str) -> Iterator[Edited]:
    """A LeaderWorkerSet smaller than its ranks need."""
    match = re.search(r"(?m)^(\s*size:\s*)(\d+)\s*$", text)
    if (
        match is not None
        and "LeaderWorkerSet" in text
        and int(match.group(2)) > 1
        and re.search(TP, text)
        and "nvidia.com/gpu" in text
        and not ELSEWHERE.search(text)
    ):
        yield Edited(text[: match.start(2)] + "1" + text[match.end(2) :], "size 1")
