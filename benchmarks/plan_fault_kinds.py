"""Faults that people make in launch plans, as edits of real plans' texts. Used by `plan_faults.py`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from plan_fault_text import add, engine, only_engine, option, put, rename
from plan_text import ELSEWHERE, TP, billions, launches, one_service, plain_lines, width

GPU = r"(?m)^(\s*(?:-\s*)?[\"']?nvidia\.com/gpu[\"']?\s*:\s*[\"']?)(\d+)([\"']?)"
OTHER_CHIPS = re.compile(r"(?i)cpu-|-cpu|tpu|neuron|npu|ascend|xpu|gaudi|\bamd\b|rocm|\bcpu\b.*image")
MEMORY = ("gpu-oom-weights", "gpu-oom-kv-cache", "gpu-oom-runtime")
COUNT = ("gpu-count-exceeded", "launcher-layout", "ray-resources-pending")
ARGUMENT = ("invalid-launch-argument",)
BACKEND = ("attention-backend-unsupported",)
PAIR = ("tp-mismatch-disagg", "kv-transport-unsupported", "disagg-prefill-not-enabled", "invalid-launch-argument")


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


def adds(program: str, name: str, value: str | None = None, gpus: str = "", unless: str = "", also: tuple[tuple[str, str | None], ...] = ()) -> Callable[[str], Iterator[Edited]]:
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


def sets(program: str, names: str, new: str, gpus: str = "", value: str = r"[^\s\"',\\]+") -> Callable[[str], Iterator[Edited]]:
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


def swaps(pattern: str, new: str, *, needs: str = "", without: str = "", count: int = 1, gpus: str = "") -> Callable[[str], Iterator[Edited]]:
    """An expression replaced."""

    def make(text: str) -> Iterator[Edited]:
        plain = plain_lines(text)
        found = re.search(pattern, plain)
        if found is None or (needs and not re.search(needs, plain)) or (without and re.search(without, plain)):
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
    if match is None or not launches(text) or not one_service(text) or re.search(r"data.parallel|--dp|pipeline|nnodes|nodeCount|ep.size|expert", text):
        return
    need = billions(text) * 1e9 * width(text) / max(sizes)
    if need > 0.25 * 80e9:
        yield from _edit(text, match, "0.1", "8xH100")


def small_cards(text: str) -> Iterator[Edited]:
    """The plan of big cards on nodes of 8 L40S, where the weights are half as big again as all ranks' memory."""
    sizes = [int(size) for _, size in re.findall(TP, plain_lines(text))] or [1]
    if re.search(r"data.parallel|--dp|pipeline|nnodes|nodeCount", text) or not launches(text) or OTHER_CHIPS.search(text):
        return
    if billions(text) * 1e9 * width(text) > 1.5 * max(sizes) * 48e9 and len(set(sizes)) == 1:
        yield Edited(text + "\n", "L40S", "8xL40S")


def gpus_gone(text: str) -> Iterator[Edited]:
    """No GPU granted at all to the one worker."""
    if one_service(text) and len(re.findall(GPU, text)) in (1, 2) and not re.search("LeaderWorkerSet|claims|DynamoGraph|Ray|ServingRuntime", text):
        yield Edited(re.sub(GPU + r".*\n", "", text), "nvidia.com/gpu taken out")


def gpu_key(text: str) -> Iterator[Edited]:
    """The resource's name misspelt."""
    if re.search(GPU, text) and launches(text) and "DynamoGraph" not in text:
        yield Edited(re.sub(r"nvidia\.com/gpu(?=[\"']?\s*:)", "nvidia.com/gpus", text), "nvidia.com/gpus")


def limits_differ(text: str) -> Iterator[Edited]:
    """Requests that are not the limits: Kubernetes refuses that for GPUs."""
    found = list(re.finditer(GPU, text))
    if len(found) == 2 and len({each.group(2) for each in found}) == 1 and found[0].group(2) != "1" and "requests" in text and "limits" in text:
        yield Edited(text[: found[0].start(2)] + "1" + text[found[0].end(2) :], "one of limits and requests is 1")


def backslash(text: str) -> Iterator[Edited]:
    """A line of a command that no longer ends in a backslash."""
    for match in re.finditer(r" \\\n(\s*--[a-z][\w-]+ [\w./]+ \\\n)", plain_lines(text)):
        if engine(text, match.start()) in ("vllm", "sglang") and launches(text) and not re.search("echo|cat <<", text):
            yield Edited(text[: match.start()] + "\n" + text[match.start() + 3 :], "a backslash gone")
            return


def blank_after_backslash(text: str) -> Iterator[Edited]:
    """A blank behind the backslash: the line goes on no more."""
    for match in re.finditer(r" \\\n(\s*--[a-z][\w-]+ [\w./]+ \\\n)", plain_lines(text)):
        if engine(text, match.start()) in ("vllm", "sglang") and launches(text) and not re.search("echo|cat <<", text):
            at = match.start() + 2
            yield Edited(text[:at] + " " + text[at:], "a blank behind a backslash")
            return


def dash(text: str) -> Iterator[Edited]:
    """A typographic dash instead of two hyphens, as word processors write it."""
    match = option(text, "tensor-parallel-size|max-model-len|mem-fraction-static|gpu-memory-utilization|context-length")
    if match is not None and engine(text, match.start()) in ("vllm", "sglang"):
        yield Edited(text[: match.start(1)] + "–" + match.group(1)[2:] + text[match.end(1) :], "en dash")


def single_dash(text: str) -> Iterator[Edited]:
    """One hyphen instead of two."""
    match = option(text, "tensor-parallel-size|max-model-len|mem-fraction-static|gpu-memory-utilization|context-length")
    if match is not None and engine(text, match.start()) in ("vllm", "sglang"):
        yield Edited(rename(text, match, match.group(1)[1:]), "single hyphen")


def no_value(text: str) -> Iterator[Edited]:
    """An option that lost its value, followed by the next one."""
    match = option(text, "max-model-len|max-num-seqs|context-length|mem-fraction-static|block-size", r"[\d.]+")
    if match is not None and " " == text[match.end(1) : match.start(2)] and re.match(r"[ \\\n]*--", text[match.end(2) :]) and engine(text, match.start()) in ("vllm", "sglang"):
        yield Edited(text[: match.end(1)] + text[match.end(2) :], f"{match.group(1)} without a value")


def probe_port(text: str) -> Iterator[Edited]:
    """A probe at a port where nobody listens."""
    pattern = r"((?:livenessProbe|startupProbe): *\n(?: +\S.*\n){0,4}? +httpGet: *\n(?: +path.*\n)? +port: *)(\d+)"
    match = re.search(pattern, plain_lines(text))
    served = option(text, "port", r"\d+")
    if match is not None and served is not None and served.group(2) == match.group(2) and "DynamoGraph" not in text and one_service(text):
        yield Edited(text[: match.start(2)] + "8899" + text[match.end(2) :], "probe at port 8899")


def both_roles(role: str, other: str) -> Callable[[str], Iterator[Edited]]:
    """Every worker of a pair with one role."""

    def make(text: str) -> Iterator[Edited]:
        plain = plain_lines(text)
        pattern = rf"(--disaggregation-mode{'(?:[= ]+|[^a-zA-Z]*?-[^a-zA-Z]*)'}){other}\b"
        if re.search(rf"--disaggregation-mode[^a-zA-Z]+{role}\b", plain) and len(re.findall(pattern, plain)) == 1 and "$" not in plain:
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
        yield Edited(text[: found[1].start(1)] + "P2pNcclConnector" + text[found[1].end(1) :], "P2pNcclConnector")


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
        if first is not None and len(re.findall(rf"--(?:{names})(?![\w-])", plain)) == 2 and first.group(2) != new:
            yield from _edit(text, first, new)

    return make


def variable(program: str, name: str, value: str, needs: str = "") -> Callable[[str], Iterator[Edited]]:
    """One more variable in the environment of a container or a script."""

    def make(text: str) -> Iterator[Edited]:
        plain = plain_lines(text)
        if (program and only_engine(text) != program) or re.search(rf"{name}\b", text) or (needs and not re.search(needs, plain)) or OTHER_CHIPS.search(text):
            return
        item = re.search(r"(?m)^(\s*)- name: [A-Z][A-Z_]+\n\1  value: .*\n", plain)
        export = re.search(r"(?m)^export [A-Z][A-Z_]+=\S+\n", plain)
        if item is not None and "kind:" in plain:
            new = f'{item.group(1)}- name: {name}\n{item.group(1)}  value: "{value}"\n'
            yield Edited(text[: item.start()] + new + text[item.start() :], f"{name}={value}")
        elif export is not None and "kind:" not in plain:
            yield Edited(text[: export.start()] + f"export {name}={value}\n" + text[export.start() :], f"{name}={value}")

    return make


def misspelt_variable(text: str) -> Iterator[Edited]:
    """A letter lost in the name of one of NCCL's or the engine's variables."""
    match = re.search(r"(?:name: |export |-e )(NCCL_SOCKET_IFNAME|NCCL_IB_HCA|NCCL_IB_DISABLE|NCCL_IB_GID_INDEX|GLOO_SOCKET_IFNAME|VLLM_NIXL_SIDE_CHANNEL_HOST|VLLM_WORKER_MULTIPROC_METHOD|VLLM_USE_DEEP_GEMM)(?=[=\n])", plain_lines(text))
    if match is not None:
        name = match.group(1)
        at = name.rindex("_") + 2
        yield Edited(text[: match.start(1)] + name[:at] + name[at + 1 :] + text[match.end(1) :], f"{name[:at]}{name[at + 1 :]}")


def visible(value: str) -> Callable[[str], Iterator[Edited]]:
    """CUDA_VISIBLE_DEVICES that does not suit the ranks."""

    def make(text: str) -> Iterator[Edited]:
        sizes = {int(size) for _, size in re.findall(TP, plain_lines(text))}
        if sizes and min(sizes) >= 2 and launches(text) and not re.search(r"nnodes|nodeCount|LeaderWorkerSet|Ray|DynamoGraph", text):
            yield from variable("", "CUDA_VISIBLE_DEVICES", value)(text)

    return make


def tp_of(new: str, without: str = "") -> Callable[[str], Iterator[Edited]]:
    """A tensor-parallel size that no number of heads of the usual models is a multiple of, with GPUs enough."""

    def make(text: str) -> Iterator[Edited]:
        match = re.search(TP, plain_lines(text))
        if match is None or int(match.group(2)) < 2 or not launches(text) or not billions(text) or OTHER_CHIPS.search(text) or "nvidia.com/gpu" in text or re.search(r"gpu:|isagg|nproc|nnodes|pipeline|--dp|data.parallel|--ep|DEVICES", text):
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
    if match is not None and max(sizes, default=1) > 1 and "/dev/shm" in text and "DynamoGraph" not in text and not OTHER_CHIPS.search(text):
        yield Edited(text[: match.start(2)] + "64Mi" + text[match.end(2) :], "sizeLimit 64Mi")


def host_memory(text: str) -> Iterator[Edited]:
    """A container whose memory limit is below what loading takes."""
    match = re.search(r"(?m)(limits: *\n(?: +\S.*\n){0,4}? +memory: *[\"']?)(\d+Gi)", text)
    if match is not None and billions(text) > 6 and one_service(text) and "DynamoGraph" not in text:
        yield Edited(text[: match.start(2)] + "2Gi" + text[match.end(2) :], "memory limit 2Gi")


def lws_size(text: str) -> Iterator[Edited]:
    """A LeaderWorkerSet smaller than its ranks need."""
    match = re.search(r"(?m)^(\s*size:\s*)(\d+)\s*$", text)
    if match is not None and "LeaderWorkerSet" in text and int(match.group(2)) > 1 and re.search(TP, text) and "nvidia.com/gpu" in text and not ELSEWHERE.search(text):
        yield Edited(text[: match.start(2)] + "1" + text[match.end(2) :], "size 1")


FAULTS = (
    Fault("kv role on both sides", one_kv_role, PAIR),
    Fault("other connector on one side", other_connector, PAIR),
    Fault("connector misspelt", swaps(r"NixlConnector", "NixlConector"), (*ARGUMENT, "kv-transport-unsupported")),
    Fault("JSON brace lost", broken_json, ARGUMENT),
    Fault("prefill twice", both_roles("prefill", "decode"), PAIR),
    Fault("decode twice", both_roles("decode", "prefill"), PAIR),
    Fault("transfer backend of one side", pair_differs("disaggregation-transfer-backend", "mooncake"), PAIR),
    Fault("transfer backend unknown", sets("sglang", "disaggregation-transfer-backend", "nixll"), (*ARGUMENT, "kv-transport-unsupported")),
    Fault("block size of one side", pair_differs("block-size|page-size", "256"), PAIR),
    Fault("mode misspelt", swaps(r"(disaggregation-mode[^a-zA-Z]+)prefill", r"\1prefil"), (*ARGUMENT, "disagg-prefill-not-enabled")),
    Fault("share above one", sets("vllm", "gpu-memory-utilization", "1.2"), ARGUMENT),
    Fault("share above one (sglang)", sets("sglang", "mem-fraction-static", "1.1"), ARGUMENT),
    Fault("share below the weights", smaller_share, MEMORY),
    Fault("model of 405B", bigger_model, (*MEMORY, *COUNT)),
    Fault("small cards", small_cards, MEMORY),
    Fault("no GPU granted", gpus_gone, (*COUNT, "gpu-not-visible")),
    Fault("resource name misspelt", gpu_key, (*COUNT, "gpu-not-visible", *ARGUMENT, "pod-unschedulable")),
    Fault("requests differ from limits", limits_differ, (*COUNT, "pod-unschedulable", *ARGUMENT)),
    Fault("SGLang's option on vLLM", names("vllm", "gpu-memory-utilization", "--mem-fraction-static"), ARGUMENT),
    Fault("SGLang's length on vLLM", names("vllm", "max-model-len", "--context-length"), ARGUMENT),
    Fault("vLLM's option on SGLang", names("sglang", "mem-fraction-static", "--gpu-memory-utilization"), ARGUMENT),
    Fault("vLLM's length on SGLang", names("sglang", "context-length", "--max-model-len"), ARGUMENT),
    Fault("dtype of another spelling", adds("vllm", "--dtype", "fp16"), ARGUMENT),
    Fault("bfloat16 on V100", adds("vllm", "--dtype", "bfloat16", "8xV100-32GB"), ("dtype-unsupported",)),
    Fault("bfloat16 on T4", adds("sglang", "--dtype", "bfloat16", "8xT4"), ("dtype-unsupported", *MEMORY)),
    Fault("FP8 on V100", adds("vllm", "--quantization", "fp8", "8xV100-32GB"), ("quantization-unsupported",)),
    Fault("FA3 on B200", adds("sglang", "--attention-backend", "fa3", "8xB200"), BACKEND),
    Fault("FlashInfer on V100", adds("vllm", "--attention-backend", "FLASHINFER", "8xV100-32GB"), BACKEND),
    Fault("TRT-LLM MLA on H100", sets("sglang", "attention-backend", "trtllm_mla", "8xH100"), BACKEND),
    Fault("FlashMLA on A100", adds("vllm", "--attention-backend", "FLASHMLA", "8xA100-80GB"), BACKEND),
    Fault("attention backend unknown", adds("sglang", "--attention-backend", "flashattn3"), (*ARGUMENT, *BACKEND)),
    Fault("quantization unknown", adds("vllm", "--quantization", "fp7"), (*ARGUMENT, "quantization-unsupported")),
    Fault("cache type unknown", sets("vllm", "kv-cache-dtype", "int3"), ARGUMENT),
    Fault("cache type unknown (sglang)", adds("sglang", "--kv-cache-dtype", "fp8"), ARGUMENT),
    Fault("block size odd", adds("vllm", "--block-size", "20"), ARGUMENT),
    Fault("length beyond the model", sets("vllm", "max-model-len", "9000000", value=r"\d{4,6}"), (*ARGUMENT, *MEMORY)),
    Fault("length beyond the model (sglang)", sets("sglang", "context-length", "9000000", value=r"\d{4,6}"), (*ARGUMENT, *MEMORY)),
    Fault("batch below sequences", adds("vllm", "--max-num-batched-tokens", "64", unless="max-num-seqs", also=(("--max-num-seqs", "512"),)), ARGUMENT),
    Fault("value for a switch", adds("vllm", "--enforce-eager", "true"), ARGUMENT),
    Fault("load format misspelt", adds("vllm", "--load-format", "safetensor"), ARGUMENT),
    Fault("executor misspelt", adds("vllm", "--distributed-executor-backend", "multiprocessing"), ARGUMENT),
    Fault("data parallel does not divide", adds("sglang", "--dp-size", "3", unless="dp-size|dp-attention|--dp", also=(("--enable-dp-attention", None),)), (*ARGUMENT, "tp-not-divisible", *COUNT)),
    Fault("expert size does not divide", adds("sglang", "--ep-size", "3", unless=r"--ep|--expert|--moe"), (*ARGUMENT, "tp-not-divisible", *COUNT)),
    Fault("port above 65535", sets("vllm", "port", "80000"), ARGUMENT),
    Fault("backslash lost", backslash, ARGUMENT),
    Fault("blank behind the backslash", blank_after_backslash, ARGUMENT),
    Fault("en dash", dash, ARGUMENT),
    Fault("single hyphen", single_dash, ARGUMENT),
    Fault("value lost", no_value, ARGUMENT),
    Fault("TP 5", tp_of("5"), ("tp-not-divisible",)),
    Fault("interface lo", variable("", "NCCL_SOCKET_IFNAME", "lo", r"nnodes|nodeCount|LeaderWorkerSet|--nodes"), ("nccl-wrong-interface", "host-ip-wrong")),
    Fault("Gloo's interface lo", variable("", "GLOO_SOCKET_IFNAME", "lo", r"nnodes|nodeCount|LeaderWorkerSet|--nodes"), ("nccl-wrong-interface", "host-ip-wrong")),
    Fault("own address loopback", variable("vllm", "VLLM_HOST_IP", "127.0.0.1", r"nnodes|nodeCount|LeaderWorkerSet|ray"), ("host-ip-wrong",)),
    Fault("variable misspelt", misspelt_variable, (*ARGUMENT, "nccl-wrong-interface")),
    Fault("one GPU visible", visible("0"), (*COUNT, "gpu-not-visible")),
    Fault("a GPU twice visible", visible("0,0,1,1"), ("duplicate-gpu", *COUNT)),
    Fault("a GPU that no node has", visible("12,13,14,15,16,17,18,19"), (*COUNT, "gpu-not-visible")),
    Fault("probe at another port", probe_port, ("probe-killed",)),
    Fault("probe of another path", swaps(r"((?:livenessProbe|startupProbe): *\n(?: +\w+:.*\n){0,4}? +path: *[\"']?)/health\b", r"\1/healthz", needs="vllm", without="DynamoGraph|router"), ("probe-killed",)),
    Fault("tiny shm", tiny_shm, ("shm-too-small",)),
    Fault("host memory", host_memory, ("host-oom-killed",)),
    Fault("LWS of one pod", lws_size, (*COUNT, "tp-not-divisible")),
    Fault("LWS of another API", swaps(r"leaderworkerset\.x-k8s\.io/v1\b", "leaderworkerset.x-k8s.io/v1beta2", needs="kind: LeaderWorkerSet"), (*ARGUMENT, "version-skew", UNREADABLE := "unreadable")),
    Fault("v1alpha1 called v1beta1", swaps(r"nvidia\.com/v1alpha1", "nvidia.com/v1beta1", needs=r"services:\s*\n"), (*ARGUMENT, "version-skew", UNREADABLE)),
    Fault("v1beta1 called v1alpha1", swaps(r"nvidia\.com/v1beta1", "nvidia.com/v1alpha1", needs=r"components:\s*\n"), (*ARGUMENT, "version-skew", UNREADABLE)),
    Fault("Megatron's pipeline of 7", world, ("launcher-layout", *COUNT)),
    Fault("one node more", node_count, ("launcher-layout", "rendezvous-timeout")),
    Fault("fewer GPUs of Slurm", slurm(r"(#SBATCH --(?:gpus-per-node|gres)[= ](?:gpu:)?(?:\w+:)?)(8|4)\b", r"\g<1>2", r"nproc[-_]per[-_]node[= ](?:8|4)\b"), (*COUNT, "launcher-layout")),
    Fault("TRT-LLM key misspelt", swaps(r"(?m)^(\s*)kv_cache_config:", r"\1kv_cache_confg:", without="resources:\n  model"), ARGUMENT),
    Fault("TRT-LLM memory share", swaps(r"free_gpu_memory_fraction:\s*0?\.\d+", "free_gpu_memory_fraction: 8.5"), ARGUMENT),
    Fault("TRT-LLM transceiver unknown", swaps(r"(cache_transceiver_config: *\n(?: +\w+:.*\n){0,3}? +backend: *)[\"']?(?:UCX|NIXL|DEFAULT)[\"']?", r"\1UCXX"), ARGUMENT),
)
