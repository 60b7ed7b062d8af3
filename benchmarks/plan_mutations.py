"""Breaks real launch plans in ways that people do, and counts how many of the faults `diag check` finds.

Usage: PYTHONPATH=.:benchmarks python benchmarks/plan_mutations.py FOLDER [--show] [--only MUTATION] [--sample N]

Each mutation edits a plan's text with expressions of its own (it does not use diag's readers to find the place), keeps to
plans that were accused of nothing before, and counts as found if a failure or warning of a fitting cause is new. Where a
change makes no fault (a worker that still fits, a port that nothing else uses) the mutation is not applied: the guards are
beside each. The plans stay outside the repository.
"""

from __future__ import annotations

import argparse
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from plan_corpus import WRONG, corpus
from plan_text import ELSEWHERE, TP, billions, in_command, launches, one_service, plain_lines, width

from diag.diagnose.plans import check_plans, parse_gpus
from diag.model.launch import Hardware
from diag.observe.plans import read_plan_text
from diag.system import UserError

MEMORY = ("gpu-oom-weights", "gpu-oom-kv-cache", "gpu-oom-runtime")
COUNT = ("gpu-count-exceeded", "launcher-layout", "ray-resources-pending")


@dataclass(frozen=True)
class Broken:
    """One broken text, on its hardware."""

    text: str
    hardware: Hardware
    what: str = ""


@dataclass(frozen=True)
class Mutation:
    """A kind of fault: how it is made, and which causes name it."""

    name: str
    make: Callable[[str, Hardware], Iterator[Broken]]
    causes: tuple[str, ...]


def drop_tp(text: str, hardware: Hardware) -> Iterator[Broken]:
    """Only where the model does not fit one GPU: the plan is put onto the smallest that still holds it split."""
    need = billions(text) * 1e9 * width(text)
    plain = plain_lines(text)
    sizes = re.findall(TP, plain)
    if need == 0 or not one_service(text) or int(sizes[0][1]) < 2:
        return
    ranks = int(sizes[0][1])
    gpus = ("8xL4", "8xA100-40GB", "8xA100-80GB", "8xH200", "8xB200")
    hardware = next(
        (parse_gpus(each) for each in gpus if need < 0.7 * ranks * (parse_gpus(each).gpu_memory_bytes or 0)),
        hardware,
    )
    if need < 1.15 * (hardware.gpu_memory_bytes or 0):
        return
    if re.search(r"pipeline.parallel|pp.size|data.parallel|--dp|EXTRA|\$@", plain) or not launches(text):
        return
    for match in re.finditer(TP, plain):
        cut = plain[match.start() : match.end()]
        end = match.end() + (text[match.end() : match.end() + 1] in "\"'" and "," not in cut)
        start = match.start()
        if re.search(r"\n\s*-", cut) or text[: match.start()].rstrip(" \"'").endswith("-"):
            start = text.rfind("\n", 0, start)  # whole list items
            end = text.find("\n", match.end())
            end = len(text) if end < 0 else end
        elif text[start - 1 : start] in "\"'":
            continue
        yield Broken(text[:start] + text[end:], hardware, cut.strip())


def tp_for_heads(text: str, hardware: Hardware) -> Iterator[Broken]:
    """7 divides no usual number of heads; granted GPUs are raised with it where they stand beside it."""
    for match in list(re.finditer(TP, plain_lines(text)))[:1]:
        if int(match.group(2)) > 1 and launches(text) and in_command(text, match):
            yield Broken(text[: match.start(2)] + "7" + text[match.end(2) :], hardware, match.group().strip())


def double_tp(text: str, hardware: Hardware) -> Iterator[Broken]:
    """More ranks than a node has GPUs, where nothing spans nodes."""
    if re.search(r"nnodes|nodeCount|multinode|num.nodes|LeaderWorkerSet|ray|srun|mpirun", text):
        return
    for match in list(re.finditer(TP, plain_lines(text)))[:1]:
        if not launches(text) or not in_command(text, match):
            continue
        new = max(16, int(match.group(2)) * 2)
        yield Broken(text[: match.start(2)] + str(new) + text[match.end(2) :], hardware, f"TP {new}")


def more_workers(text: str, hardware: Hardware) -> Iterator[Broken]:
    """Ten times the replicas on a cluster that is just large enough for the plan (see `measure`)."""
    plain = plain_lines(text)
    pattern = r"(?m)^(\s*(?:replicas|workers)\s*:\s*[\"']?)([1-9]\d?)([\"']?\s*(?:#.*)?)$"
    if (
        re.search(pattern, plain)
        and re.search(r"gpu[\"']?\s*:\s*[\"']?[1-9]", plain)
        and not re.search("HorizontalPod|autoscal", plain)
    ):
        broken = re.sub(
            pattern, lambda match: f"{match.group(1)}{10 * int(match.group(2))}{match.group(3)}", text
        )
        yield Broken(broken, hardware, "replicas x 10")


def misspell(text: str, hardware: Hardware) -> Iterator[Broken]:
    """Two letters swapped in a long option of an engine."""
    plain = plain_lines(text)
    names = r"--(tensor-parallel-size|max-model-len|gpu-memory-utilization|mem-fraction-static|served-model-name|max-num-seqs|max-num-batched-tokens|enforce-eager|trust-remote-code|kv-cache-dtype|enable-expert-parallel|pipeline-parallel-size|chunked-prefill-size|disaggregation-mode|enable-prefix-caching|model-path|quantization|block-size|context-length|kv-transfer-config|dist-init-addr|max-running-requests|disaggregation-transfer-backend|enable-dp-attention|max_batch_size|max_num_tokens|tp_size|ep_size|kv_cache_free_gpu_memory_fraction|extra_llm_api_options|extra-engine-args)(?![\w-])"
    matches = [
        match
        for match in re.finditer(names, plain)
        if not re.search(r"echo|printf", plain[plain.rfind("\n", 0, match.start()) : match.start()])
    ]
    for match in random.Random(len(text)).sample(matches, min(2, len(matches))):
        name = match.group(1)
        at = len(name) // 2 if name[len(name) // 2] != name[len(name) // 2 + 1] else len(name) // 2 + 1
        wrong = name[:at] + name[at + 1] + name[at] + name[at + 2 :]
        if wrong == name or "-" in name[at : at + 2] or "_" in name[at : at + 2]:
            wrong = name[:3] + name[4:]
        yield Broken(text[: match.start(1)] + wrong + text[match.end(1) :], hardware, wrong)


def shrink_gpu(text: str, hardware: Hardware) -> Iterator[Broken]:
    """Tesla T4s of 14.6 GiB, where the weights alone are twice what all ranks have together."""
    sizes = [int(size) for _, size in re.findall(TP, plain_lines(text))] or [1]
    ranks = max(sizes)
    if re.search(r"data.parallel|--dp|pipeline|nnodes|nodeCount", text) or not launches(text):
        return
    if billions(text) * 1e9 * width(text) > 2.0 * ranks * 14.56 * (1 << 30) and len(set(sizes)) == 1:
        yield Broken(text, parse_gpus("8xT4"), "T4")


def fewer_gpus(text: str, hardware: Hardware) -> Iterator[Broken]:
    """The container is granted one GPU, its engine keeps its tensor-parallel size."""
    if not one_service(text) or re.search(
        r"nodeCount|LeaderWorkerSet|RayCluster|RayService|LWS|nnodes|claims", text
    ):
        return
    size = int(re.findall(TP, plain_lines(text))[0][1])
    pattern = r"(?m)^(\s*(?:-\s*)?[\"']?(?:nvidia\.com/gpu|gpu)[\"']?\s*:\s*[\"']?)([2-9]|1\d)([\"']?)"
    if size > 1 and re.search(pattern, plain_lines(text)):
        yield Broken(re.sub(pattern, r"\g<1>1\g<3>", text), hardware, "gpu: 1")


def remove_shm(text: str, hardware: Hardware) -> Iterator[Broken]:
    """The volume behind /dev/shm mounted elsewhere, or the container's shared memory left at its default."""
    if (
        not any(int(size) > 1 for _, size in re.findall(TP, plain_lines(text)))
        or "hostIPC" in text
        or re.search("LeaderWorkerSet|LWS_", text)
        or ELSEWHERE.search(text)
    ):
        return
    plain = plain_lines(text)
    if "/dev/shm" in plain and "mountPath" in plain and "DynamoGraphDeployment" not in text:
        yield Broken(re.sub(r"(mountPath\s*:\s*[\"']?)/dev/shm", r"\1/scratch", text), hardware, "mountPath")
    if "docker run" in plain and not re.search(r"(?m)^\s*-v.*shm", plain):
        cut = re.sub(r"--ipc[= ]host|--shm-size[= ]\S+", "", text)
        if cut != text and "/dev/shm" not in cut and "--gpus" in cut:
            yield Broken(cut, hardware, "docker")
    if re.search(r"(?m)^services:", plain) and re.search(r"shm_size|ipc: ?host", plain):
        yield Broken(re.sub(r"(?m)^\s*(?:shm_size|ipc)\s*:.*\n", "", text), hardware, "compose")


def prefill_off(text: str, hardware: Hardware) -> Iterator[Broken]:
    """A prefill worker that no longer says so, or remote prefill left out."""
    plain = plain_lines(text)
    if re.search(r"remote-prefill\s*:\s*true", plain):
        yield Broken(re.sub(r"(?m)^\s*remote-prefill\s*:\s*true\s*\n", "", text), hardware, "remote-prefill")
    if "DynamoGraphDeployment" not in text or "dynamo.vllm" not in plain or "$" in plain:
        return
    if len(re.findall(r"--is-prefill-worker", plain)) == 1:
        yield Broken(
            re.sub(
                r"(?m)^\s*-\s*[\"']?--is-prefill-worker[\"']?\s*\n|,?\s*\"--is-prefill-worker\"|--is-prefill-worker",
                "",
                text,
                count=1,
            ),
            hardware,
            "is-prefill-worker",
        )
    found = re.findall(r"--disaggregation-mode[=\s,\"'-]+prefill", plain)
    if len(found) == 1:
        yield Broken(
            re.sub(
                r"(?m)^\s*-\s*--disaggregation-mode\s*\n\s*-\s*prefill\s*\n|--disaggregation-mode[= ]prefill",
                "",
                text,
                count=1,
            ),
            hardware,
            "disaggregation-mode",
        )


def loopback(text: str, hardware: Hardware) -> Iterator[Broken]:
    """The meeting point of several nodes becomes localhost."""
    plain = plain_lines(text)
    pattern = r"(--(?:dist-init-addr|master[-_]addr|rdzv[-_]endpoint|main_process_ip|data-parallel-address)[= ])(\"?[^\s:\"\\]+)"
    several = re.search(
        r"(?:--nnodes|--num_machines|--nnode)[= ](?!1\b)[\"']?(?:[2-9]|\d\d)|#SBATCH (?:--nodes[= ]|-N ?)(?!1\b)\d",
        plain,
    )
    if (
        several
        and (match := re.search(pattern, plain))
        and "127.0.0.1" not in text
        and "localhost" not in text
    ):
        quote = '"' if match.group(2).startswith('"') else ""
        yield Broken(
            text[: match.start(2)] + quote + "127.0.0.1" + text[match.end(2) :], hardware, match.group()
        )


def same_port(text: str, hardware: Hardware) -> Iterator[Broken]:
    """Two processes in the background of one script on one port."""
    plain = plain_lines(text)
    ports = list(re.finditer(r"--port[= ](\d{4,5})\b", plain))
    started = re.findall(r"(?:vllm serve|sglang\.launch_server)[^&\n]*(?:\\\n[^&\n]*)*&", plain)
    if (
        len(ports) == 2
        and len(started) >= 2
        and ports[0].group(1) != ports[1].group(1)
        and not re.search("ssh|srun|if |docker|case ", plain)
    ):
        yield Broken(
            text[: ports[1].start(1)] + ports[0].group(1) + text[ports[1].end(1) :], hardware, "port"
        )


def impatient_probe(text: str, hardware: Hardware) -> Iterator[Broken]:
    """A liveness or startup probe that gives up after seconds."""
    if billions(text) < 7 or "DynamoGraphDeployment" in text or not re.search(TP, text):
        return
    pattern = r"(?m)^(\s*)(startupProbe|livenessProbe)\s*:\s*\n((?:\1 +.*\n)+)"
    found = re.search(pattern, text)
    if found and not ("startupProbe" in text and found.group(2) == "livenessProbe"):
        body = re.sub(
            r"(failureThreshold|initialDelaySeconds|periodSeconds)\s*:\s*\d+", r"\1: 2", found.group(3)
        )
        if body != found.group(3) and len(re.findall("failureThreshold", body)):
            yield Broken(text[: found.start(3)] + body + text[found.end(3) :], hardware, found.group(2))


def nonsense_share(text: str, hardware: Hardware) -> Iterator[Broken]:
    """90 where 0.90 was meant."""
    match = re.search(
        r"(--(?:gpu-memory-utilization|mem-fraction-static)[= ,\"'\n-]+\s*[\"']?)(0?\.\d+)", plain_lines(text)
    )
    if match and launches(text) and in_command(text, match):
        yield Broken(text[: match.start(2)] + "90" + text[match.end(2) :], hardware, match.group().strip())


def too_many_ranks(text: str, hardware: Hardware) -> Iterator[Broken]:
    """Twice a node's GPUs as ranks of torchrun or accelerate."""
    match = re.search(r"(--nproc[-_]per[-_]node[= ])(\d+)\b", plain_lines(text))
    if match and int(match.group(2)) > 1 and "@cpu" not in text and "neuron" not in text.lower():
        yield Broken(text[: match.start(2)] + "32" + text[match.end(2) :], hardware, match.group())


def node_rank(text: str, hardware: Hardware) -> Iterator[Broken]:
    """A node rank that no node has."""
    plain = plain_lines(text)
    match = re.search(r"(--node[-_]rank[= ])(\d+)\b", plain)
    if match and re.search(r"--nnodes[= ][2-9]\b", plain):
        yield Broken(text[: match.start(2)] + "9" + text[match.end(2) :], hardware, match.group())


MUTATIONS = (
    Mutation("drop TP", drop_tp, (*MEMORY, "tp-mismatch-disagg", "launcher-layout")),
    Mutation("TP 7", tp_for_heads, ("tp-not-divisible", "tp-mismatch-disagg", *COUNT)),
    Mutation("double TP", double_tp, (*COUNT, "tp-not-divisible")),
    Mutation("ten times the workers", more_workers, COUNT),
    Mutation("misspell an option", misspell, ("invalid-launch-argument",)),
    Mutation("shrink the GPU", shrink_gpu, MEMORY),
    Mutation("grant one GPU", fewer_gpus, COUNT),
    Mutation("remove shm", remove_shm, ("shm-too-small",)),
    Mutation("prefill not switched on", prefill_off, ("disagg-prefill-not-enabled",)),
    Mutation("loopback master", loopback, ("host-ip-wrong",)),
    Mutation("same port", same_port, ("port-in-use",)),
    Mutation("impatient probe", impatient_probe, ("probe-killed",)),
    Mutation("share of 90", nonsense_share, ("invalid-launch-argument",)),
    Mutation("too many ranks", too_many_ranks, (*COUNT, "launcher-layout")),
    Mutation("node rank 9", node_rank, ("launcher-layout",)),
)


def causes_of(text: str, path: str, hardware: Hardware) -> Counter[str]:
    """How often each cause is named as a failure or warning."""
    plan = read_plan_text(text, path)
    return Counter(
        str(finding.data["cause"]) for finding in check_plans([plan], hardware) if finding.status in WRONG
    )


def measure(folder: Path, sample: int | None, show: bool, only: str | None) -> dict[str, tuple[int, int]]:
    """(found, made) of every mutation."""
    tally: dict[str, list[bool]] = defaultdict(list)
    for one in corpus(folder, sample):
        if one.plan is None or one.hardware is None or not one.plan.services or one.complaints:
            continue
        text = one.path.read_text("utf-8", "replace")
        gpus = sum(
            (s.replicas or 1) * (s.gpus_per_replica or 0) * (s.nodes_per_replica or 1)
            for s in one.plan.services
        )
        for mutation in MUTATIONS:
            if only is not None and mutation.name != only:
                continue
            hardware = one.hardware
            if mutation.make is more_workers:
                hardware = replace(hardware, nodes=max(1, -(-gpus // (hardware.gpus_per_node or 8))))
            before = causes_of(text, str(one.path), hardware)
            if sum(before.values()):
                continue
            for broken in mutation.make(text, hardware):
                try:
                    if mutation.make is drop_tp and causes_of(text, str(one.path), broken.hardware):
                        continue  # wrong there before
                    found = any(
                        causes_of(broken.text, str(one.path), broken.hardware)[cause]
                        for cause in mutation.causes
                    )
                except UserError:
                    continue  # broken beyond reading: told anyway
                tally[mutation.name].append(found)
                if show and not found:
                    print(f"missed: {mutation.name}: {one.path.relative_to(folder)}: {broken.what!r}")
    return {name: (sum(found), len(found)) for name, found in tally.items()}


def main() -> None:
    """Print found and made for every mutation, and the share of all."""
    parser = argparse.ArgumentParser(description="break real launch plans and count what is found")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sample", type=int, help="so many files, drawn at random with a fixed seed")
    parser.add_argument("--show", action="store_true", help="name every miss")
    parser.add_argument("--only", help="one mutation's name")
    options = parser.parse_args()
    result = measure(options.folder, options.sample, options.show, options.only)
    for mutation in MUTATIONS:
        found, made = result.get(mutation.name, (0, 0))
        print(
            f"{mutation.name:28} {found:5} of {made:5} {found / made:6.1%}"
            if made
            else f"{mutation.name:28} not made"
        )
    found, made = (sum(pair[index] for pair in result.values()) for index in (0, 1))
    print(f"{'all':28} {found:5} of {made:5} {found / max(made, 1):6.1%}")


if __name__ == "__main__":
    main()
