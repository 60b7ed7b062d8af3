"""DeepSpeed: its configuration's own contradictions, its batch arithmetic, hostfiles and `--include`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from diag.diagnose.plans.case import Case, judged, named_file, notes_of, where
from diag.diagnose.plans.settings import as_int, boolean, integer, setting_of, text_of
from diag.model import Finding, Status
from diag.model.launch import Service

CONFIG = "deepspeed-config"
WHOLE, MICRO, STEPS = "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"
_MODEL_PARALLEL = re.compile(
    r"parallel|(?:^|[-.])(?:pipe|pp|tp|mp|sp)(?:$|[-.])|ulysses|num-stages|deepspeed-config-mp"
)
"""Options of a script with which fewer replicas than GPUs share the batch."""
HF_ARGUMENTS = (
    # what Hugging Face's Trainer compares (deepspeed integration: HfTrainerDeepSpeedConfig)
    (MICRO, "script.per-device-train-batch-size"),
    (STEPS, "script.gradient-accumulation-steps"),
)


def judge_config(case: Case) -> Iterator[Finding]:
    """What DeepSpeed refuses whatever it runs on."""
    if case.plan.kind != CONFIG:
        return
    for service in case.services:
        if boolean(service, "fp16.enabled") and boolean(service, "bf16.enabled", "bfloat16.enabled"):
            yield judged(
                "invalid-launch-argument",
                service,
                Status.FAIL,
                "fp16 and bf16 are both enabled; DeepSpeed runs in one of them and refuses both",
                setting=where(service, "fp16.enabled"),
                do="Set fp16.enabled to false (bf16 needs no loss scaling), or bf16.enabled",
                settings={"fp16.enabled": False},
            )
        stage = integer(service, "zero_optimization.stage")
        if stage is not None and not 0 <= stage <= 3:
            yield judged(
                "invalid-launch-argument",
                service,
                Status.FAIL,
                f"zero_optimization.stage is {stage}; there are stages 0 to 3",
                setting=where(service, "zero_optimization.stage"),
                do="Use a stage from 0 to 3",
            )
        whole, micro, steps = (integer(service, name) for name in (WHOLE, MICRO, STEPS))
        if whole and micro and steps and whole % (micro * steps):
            yield judged(
                "invalid-launch-argument",
                service,
                Status.FAIL,
                f"{WHOLE} {whole} is no multiple of {MICRO} {micro} × {STEPS} {steps} = {micro * steps}, so no number of GPUs fits",
                setting=where(service, WHOLE),
                do=f"Set {WHOLE} to {MICRO} × {STEPS} × GPUs",
            )


def judge_hostfile(case: Case) -> Iterator[Finding]:
    """A line of a hostfile that DeepSpeed cannot read, where no launcher's line says whose hostfile it is."""
    if case.plan.kind == "deepspeed-hostfile":
        for service in case.services:
            if "bad.line" in notes_of(service):
                yield _bad_line(service, certain=False)


def _bad_line(service: Service, *, certain: bool) -> Finding:
    notes = notes_of(service)
    found = judged(
        "invalid-launch-argument",
        service,
        Status.FAIL if certain else Status.WARN,
        f"hostfile line {notes['bad.line']}: {notes['bad.text']!r} is not `HOST slots=N`; DeepSpeed stops with a bad entry",
        certain=certain,
        do="Write HOST slots=N, without blanks around the sign",
        cure="hostfile",
    )
    return replace(found, data={**found.data, "line": int(notes["bad.line"])})


def judge_launch(cases: Sequence[Case]) -> Iterator[Finding]:
    """A `deepspeed` line with its hostfile and its configuration."""
    for case in cases:
        for service in case.services:
            if service.role != "trainer" or getattr(service, "program", "") != "deepspeed":
                continue
            hostfile = named_file(cases, text_of(service, "hostfile", "H"), "deepspeed-hostfile")
            if hostfile is not None and "bad.line" in notes_of(hostfile):
                yield _bad_line(hostfile, certain=True)
                continue
            wrong = list(_slots(case, service, hostfile))
            yield from wrong
            config = config_of(cases, service)
            if config is None or wrong:
                continue
            world = world_of(case, service, hostfile)
            if world:
                yield from _batch(service, config, world)
            yield from _trainer_arguments(service, config)


def config_of(cases: Sequence[Case], service: Service) -> Service | None:
    """The DeepSpeed configuration that a launcher's line names."""
    for name in ("script.deepspeed", "script.deepspeed-config", "script.ds-config", "deepspeed-config-file"):
        found = named_file(cases, text_of(service, name), CONFIG)
        if found is not None:
            return found
    return None


def hosts_of(service: Service, hostfile: Service | None, here: int | None) -> dict[str, list[int]] | None:
    """Host -> its GPUs before --include: the hostfile's, or this node's where none is named."""
    if hostfile is not None:
        pairs = (each.split("=") for each in notes_of(hostfile).get("hosts", "").split(",") if each)
        return {host: list(range(int(count))) for host, count in pairs}
    if setting_of(service, "hostfile", "H") is None and here:
        return {"localhost": list(range(here))}
    return None


def _asked(text: str) -> list[tuple[str, list[int] | None]]:
    """`a:0,2@b` as [(a, [0, 2]), (b, None)]."""
    found = []
    for part in filter(None, text.strip("'\"").split("@")):
        host, colon, slots = part.partition(":")
        numbers = [as_int(each) for each in slots.split(",") if each.strip()]
        found.append((host.strip(), [each for each in numbers if each is not None] if colon else None))
    return found


def world_of(case: Case, service: Service, hostfile: Service | None) -> int | None:
    """GPUs that a `deepspeed` line takes; None where a hostfile was not given or something is a variable."""
    here = case.hardware.gpus_per_node if case.hardware is not None else None
    nodes = case.hardware.nodes if case.hardware is not None else None
    if hostfile is None and ((nodes or 1) > 1 or (integer(service, "nnodes") or 1) > 1):
        return None
    hosts = hosts_of(service, hostfile, here)
    words = [
        text_of(service, name) or "" for name in ("include", "i", "exclude", "e", "nnodes", "nproc-per-node")
    ]
    if hosts is None or any("$" in word for word in words):
        return None
    include, exclude = words[0] or words[1], words[2] or words[3]
    if include:
        hosts = {host: slots or hosts.get(host, []) for host, slots in _asked(include)}
    for host, slots in _asked(exclude):
        left = [each for each in hosts.get(host, []) if slots is not None and each not in slots]
        hosts = {**hosts, host: left}
    kept = list(hosts.values())[: integer(service, "nnodes") or len(hosts)]
    limit = integer(service, "nproc-per-node")
    return sum(min(len(slots), limit) if limit else len(slots) for slots in kept) or None


def _slots(case: Case, service: Service, hostfile: Service | None) -> Iterator[Finding]:
    here = case.hardware.gpus_per_node if case.hardware is not None else None
    hosts = hosts_of(service, hostfile, here)
    for name in ("include", "i", "exclude", "e"):
        text = text_of(service, name)
        if text is None or "$" in text or hosts is None:
            continue
        for host, slots in _asked(text):
            there = hosts.get(host)
            beyond = [each for each in slots or [] if there is not None and each not in there]
            if there is None and hostfile is not None:
                what, cause = (
                    f"names host {host}, which the hostfile does not have",
                    "invalid-launch-argument",
                )
            elif there is not None and beyond:
                what = f"asks for slot {', '.join(map(str, beyond))} of {host}, which has {len(there)} (0 to {len(there) - 1})"
                cause = "gpu-count-exceeded"
            else:
                continue
            yield judged(
                cause,
                service,
                Status.FAIL,
                f"{service.name}: --{name} {what}; DeepSpeed refuses to start",
                setting=where(service, name),
                do="Count slots from 0, and name hosts as they stand in the hostfile",
            )


def judge_local_slots(case: Case) -> Iterator[Finding]:
    """`--include localhost:...` against the GPUs of this node."""
    for service in case.services:
        if service.framework == "deepspeed" and service.role == "trainer":
            yield from _slots(case, service, None)


def _batch(service: Service, config: Service, world: int) -> Iterator[Finding]:
    """train_batch_size = micro batch × accumulation steps × replicas; what is not given DeepSpeed works out."""
    whole, micro, steps = (integer(config, name) for name in (WHOLE, MICRO, STEPS))
    said = [text_of(config, name) for name in (WHOLE, MICRO, STEPS)]
    if not whole or any(text is not None and not text.isdigit() for text in said):
        return

    def fits(replicas: int) -> bool:
        product = (micro or 1) * (steps or 1) * replicas
        return whole == product if micro and steps else whole % product == 0

    if fits(world):
        return
    fewer = [replicas for replicas in range(1, world) if world % replicas == 0 and fits(replicas)]
    if fewer and any(_MODEL_PARALLEL.search(name) for name in service.options):
        return
    parts = [f"{name} {size}" for name, size in ((MICRO, micro), (STEPS, steps)) if size]
    right = (micro or 1) * (steps or 1) * world
    product = " × ".join([*parts, f"{world} GPUs"]) + (f" = {right}" if parts else "")
    rule = "is" if micro and steps else "divides"
    best = right if micro and steps else max(right, whole // right * right)
    ways = [f"{STEPS}: {whole // (micro * world)}"] if micro and whole % (micro * world) == 0 else []
    yield judged(
        "invalid-launch-argument",
        config,
        Status.WARN if fewer else Status.FAIL,
        f"{product} {rule} not {WHOLE} {whole}" + ("; that would take fewer replicas" if fewer else "")
        if rule == "is"
        else f"{product} does not divide {WHOLE} {whole}",
        setting=where(config, WHOLE),
        certain=not fewer,
        world=world,
        do=f"Set {WHOLE} to {best}" + (f", or {ways[0]}" if ways else ""),
        settings={WHOLE: best},
        alternatives=ways,
    )


def _trainer_arguments(service: Service, config: Service) -> Iterator[Finding]:
    """Hugging Face's Trainer stops where its arguments and the configuration differ; `auto` never does."""
    if str(text_of(service, "script.deepspeed")) in ("None", "True"):
        return  # DeepSpeed's own switch: the script reads the file itself
    for name, option in HF_ARGUMENTS:
        own, given = integer(config, name), integer(service, option)
        if own and given and own != given:
            yield judged(
                "invalid-launch-argument",
                config,
                Status.FAIL,
                f"{name} is {own}, and the script is given --{option.removeprefix('script.').replace('-', '_')} {given}; the Trainer refuses values that differ",
                setting=where(config, name),
                do=f'Set {name} to "auto" or to {given}',
                settings={name: given},
            )


JUDGES = (judge_config, judge_hostfile, judge_local_slots)
TOGETHER = (judge_launch,)
