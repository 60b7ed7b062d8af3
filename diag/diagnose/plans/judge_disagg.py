"""Prefill and decode: switched on at all, and alike where they must be."""

from __future__ import annotations

import re
from collections.abc import Iterator

from diag.diagnose.plans.case import Case, absent, judged, where
from diag.diagnose.plans.settings import (
    boolean,
    engine_of,
    integer,
    setting_of,
    sizes_elsewhere,
    sizes_unknown,
    text_of,
    tp_of,
)
from diag.model import Finding, Status
from diag.model.launch import Service
from diag.observe.plans.programs import connectors

LOCAL_PREFILL_DEFAULT = 1000
"""Dynamo 2025: prompts up to max-local-prefill-length stay local (examples/llm/utils/vllm.py)."""
QUEUE_DEFAULT = 3
"""Dynamo 2025: with more prefills queued than max-prefill-queue-size they stay local (same file)."""
REMOTE_OPTIONS = ("conditional-disagg", "max-local-prefill-length", "max-prefill-queue-size")


def judge_switched_on(case: Case) -> Iterator[Finding]:
    """Dynamo 2025: a prefill worker, or options for one, without `remote-prefill: true` on the decode worker."""
    if case.plan.kind != "dynamo-2025":
        return
    prefill = [each for each in case.services if each.role == "prefill" and not absent(each)]
    v1 = any(setting_of(each, "enable-disagg") is not None for each in case.services) or any(
        each.role == "decode" for each in case.services
    )
    if v1:
        yield from _v1_switch(case, prefill)
        return
    for decode in case.engines:
        if decode.role != "worker":
            continue
        conditional = boolean(decode, "conditional-disagg") is True
        asked = prefill or conditional
        if asked and boolean(decode, "remote-prefill") is not True:
            yield _not_enabled(decode, prefill, conditional)
        elif asked and boolean(decode, "remote-prefill"):
            yield from _thresholds(decode)


def _not_enabled(decode: Service, prefill: list[Service], conditional: bool) -> Finding:
    state = (
        "is false"
        if setting_of(decode, "remote-prefill") is not None
        else "is not set, and its default is false"
    )
    evidence = ", ".join(
        filter(
            None,
            [
                " and ".join(each.name for each in prefill) + " stands ready" if prefill else "",
                "conditional-disagg is true" if conditional else "",
            ],
        )
    )
    local, queue = integer(decode, "max-local-prefill-length"), integer(decode, "max-prefill-queue-size")
    return judged(
        "disagg-prefill-not-enabled",
        decode,
        Status.FAIL,
        f"{decode.name}: {evidence}, but remote-prefill {state}: every prompt is prefilled locally and the prefill GPUs stay at 0 %",
        setting=where(decode, "remote-prefill", *REMOTE_OPTIONS),
        missing="remote-prefill",
        max_local_prefill_length=local if local is not None else LOCAL_PREFILL_DEFAULT,
        max_prefill_queue_size=queue if queue is not None else QUEUE_DEFAULT,
        do=f"Set remote-prefill: true for {decode.name}. With conditional-disagg, prompts up to max-local-prefill-length "
        f"({local if local is not None else f'{LOCAL_PREFILL_DEFAULT}, the default'}) and all prompts while more than max-prefill-queue-size "
        f"({queue if queue is not None else f'{QUEUE_DEFAULT}, the default'}) are queued still stay local",
        settings={"remote-prefill": True},
        alternatives=["serve the aggregated graph, without a prefill worker"],
    )


def _thresholds(decode: Service) -> Iterator[Finding]:
    local = integer(decode, "max-local-prefill-length")
    local = LOCAL_PREFILL_DEFAULT if local is None else local
    length = integer(decode, "max-model-len")
    if boolean(decode, "conditional-disagg") and length is not None and local >= length:
        yield judged(
            "disagg-prefill-not-enabled",
            decode,
            Status.WARN,
            f"{decode.name}: max-local-prefill-length {local} is not below max-model-len {length}, so no prompt is ever prefilled remotely",
            setting=where(decode, "max-local-prefill-length", "conditional-disagg"),
            do="Lower max-local-prefill-length",
            settings={"max-local-prefill-length": 10},
        )


def _v1_switch(case: Case, prefill: list[Service]) -> Iterator[Finding]:
    balancers = [each for each in case.services if each.role == "router" and "balancer" in each.name.lower()]
    # The first form of this example had one endpoint, `generate`, and no switch.
    switched = any((text_of(each, "endpoint") or "").endswith(("_agg", "_disagg")) for each in case.services)
    for balancer in balancers:
        state = boolean(balancer, "enable-disagg")
        if prefill and (state is False or (state is None and switched)):
            yield judged(
                "disagg-prefill-not-enabled",
                balancer,
                Status.FAIL,
                f"{balancer.name}: {prefill[0].name} stands ready, but enable_disagg is {'false' if state is False else 'not set'}, so nothing is sent to it",
                setting=where(balancer, "enable-disagg"),
                missing="enable_disagg",
                do=f"Set enable_disagg: true for {balancer.name}",
                settings={"enable-disagg": True},
            )
    for front in case.services:
        endpoint = text_of(front, "endpoint") or ""
        if front.role == "frontend" and prefill and balancers and endpoint.endswith(".generate_agg"):
            yield judged(
                "disagg-prefill-not-enabled",
                front,
                Status.FAIL,
                f"{front.name} sends requests to {endpoint}, the aggregated path; {prefill[0].name} gets none",
                setting=where(front, "endpoint"),
                do="Point it to the balancer's generate_disagg",
                settings={"endpoint": endpoint.replace("generate_agg", "generate_disagg")},
            )


def judge_component_roles(case: Case) -> Iterator[Finding]:
    """Today's Dynamo: a component that is a prefill worker by name but whose command does not say so."""
    if not case.plan.kind.startswith("dgd") or len(case.engines) < 2:
        return  # a lone worker serves whole requests, whatever its name
    for service in case.engines:
        if "prefill" in service.name.lower() and service.role == "prefill" and not _says_role(service):
            if setting_of(service, "declared-role") is not None and engine_of(service) != "vllm":
                continue
            yield judged(
                "disagg-prefill-not-enabled",
                service,
                Status.FAIL,
                f"{service.name} is a prefill worker by name, but its command has neither --disaggregation-mode prefill nor --is-prefill-worker, so it serves whole requests",
                setting=where(service, "command"),
                missing="disaggregation-mode",
                do="Add --disaggregation-mode prefill (before Dynamo 1.0: --is-prefill-worker)",
                settings={"disaggregation-mode": "prefill"},
            )


def _says_role(service: Service) -> bool:
    if boolean(service, "is-prefill-worker"):
        return True
    return any(
        setting_of(service, name) is not None
        for name in (
            "disaggregation-mode",
            "server-role",
            "extra-engine-args",
            "trtllm-config",
            "config",
            "disaggregation-strategy",
            "prefill-engine-args",
        )
    ) or "open" in getattr(service, "notes", {})


def judge_alike(case: Case) -> Iterator[Finding]:
    """Settings of a pair that must be the same on both sides, and sizes that only newer versions may mix."""
    for prefill, decode in case.pairs():
        if not engine_of(prefill) or not engine_of(decode):
            continue
        yield from _sizes(case, prefill, decode)
        for name in ("block-size", "kv-cache-dtype", "page-size"):
            first, second = text_of(prefill, name), text_of(decode, name)
            if (
                first != second
                and (first or second)
                and "auto" not in (first, second)
                and (
                    (first and second)
                    or (name in ("block-size", "kv-cache-dtype") and not elsewhere(prefill, decode))
                )
            ):
                yield _differs(prefill, decode, name, first, second)
        if case.plan.kind == "dynamo-2025":
            yield from _length(prefill, decode)
        yield from _models(case, prefill, decode)
        yield from _connectors(prefill, decode)
        yield from _backends(prefill, decode)


def _sizes(case: Case, prefill: Service, decode: Service) -> Iterator[Finding]:
    first, second = tp_of(prefill), tp_of(decode)
    if first == second or sizes_unknown(prefill) or sizes_unknown(decode):
        return
    if (
        prefill.tensor_parallel_size is None
        and (prefill.gpus_per_replica or 1) > 1
        and case.plan.kind.startswith(("dynamo", "dgd"))
    ):
        return  # said by judge_ranks, with the same cure
    # Dynamo 2025 asserts decode TP >= prefill TP (dynamo#2295); vLLM takes prefill TP > decode TP from vllm#27274 on.
    old = case.plan.kind == "dynamo-2025"
    if first > second and prefill.framework == decode.framework == "trtllm":
        return  # its cache transceiver takes any two sizes
    if first > second:
        yield judged(
            "tp-mismatch-disagg",
            prefill,
            Status.FAIL if old else Status.WARN,
            f"{prefill.name} has tensor-parallel-size {first} and {decode.name} {second}: "
            + (
                "Dynamo's transfer needs a decode size that is not below the prefill size"
                if old
                else "only vLLM from late 2025 on takes a larger prefill size"
            ),
            setting=where(prefill, "tensor-parallel-size"),
            certain=old,
            prefill=first,
            decode=second,
            do=f"Use {second} on both",
            settings={"tensor-parallel-size": second},
        )
    elif second % first:
        yield judged(
            "tp-mismatch-disagg",
            prefill,
            Status.FAIL,
            f"{decode.name}'s tensor-parallel-size {second} is no multiple of {prefill.name}'s {first}: the KV heads do not map",
            setting=where(prefill, "tensor-parallel-size"),
            prefill=first,
            decode=second,
            do=f"Use {second} on both",
            settings={"tensor-parallel-size": second},
        )


def _differs(prefill: Service, decode: Service, name: str, first: str | None, second: str | None) -> Finding:
    odd, other, value = (prefill, decode, second) if second else (decode, prefill, first)
    return judged(
        "tp-mismatch-disagg",
        odd,
        Status.FAIL if first and second else Status.WARN,
        f"{prefill.name} has {name} {first or '(its default)'} and {decode.name} {second or '(its default)'}: blocks of the KV cache do not fit each other",
        setting=where(odd, name) or where(other, name),
        certain=bool(first and second),
        do=f"Use {name} {value} on both",
        settings={name: value},
    )


def _length(prefill: Service, decode: Service) -> Iterator[Finding]:
    first, second = integer(prefill, "max-model-len"), integer(decode, "max-model-len")
    lengths: dict[str, object] = {"max-model-len": second}
    budget = integer(decode, "max-num-batched-tokens")
    if budget is not None and setting_of(prefill, "max-num-batched-tokens") is None:
        lengths["max-num-batched-tokens"] = budget  # whole prompts are prefilled there
    if (
        second
        and (first is None or first < second)
        and (first is not None or setting_of(prefill, "model") is not None)
    ):
        yield judged(
            "tp-mismatch-disagg",
            prefill,
            Status.WARN,
            f"{prefill.name} takes {first or 'the default number of'} tokens (max-model-len), {decode.name} {second}: longer prompts fail there only",
            setting=where(prefill, "max-model-len", "model"),
            do=f"Set {', '.join(f'{name}: {value}' for name, value in lengths.items())} for {prefill.name}",
            settings=lengths,
        )
    batch = integer(prefill, "max-num-batched-tokens")
    if (
        batch is not None
        and second
        and batch < second
        and boolean(prefill, "enable-chunked-prefill") is False
    ):
        yield judged(
            "invalid-launch-argument",
            prefill,
            Status.FAIL,
            f"{prefill.name}: max-num-batched-tokens {batch} is below max-model-len {second} and chunked prefill is off: the engine refuses",
            setting=where(prefill, "max-num-batched-tokens"),
            do=f"Set max-num-batched-tokens: {second}",
            settings={"max-num-batched-tokens": second},
        )


def _models(case: Case, prefill: Service, decode: Service) -> Iterator[Finding]:
    first, second = prefill.model, decode.model
    if not first or not second or first == second or "$" in first + second:
        return
    bare = [each for each in (first, second) if "/" not in each]
    if len(bare) == 1 or case.plan.kind == "dynamo-2025":
        odd, good = (prefill, second) if bare == [first] or not bare else (decode, first)
        yield judged(
            "model-path-missing",
            odd,
            Status.WARN,
            f"{odd.name} loads {odd.model!r} where its partner loads {good!r}: a name without a folder is looked up in the hub, and both sides must hold the same weights",
            setting=where(odd, "model", "model-path"),
            certain=False,
            do=f"Set model: {good} for {odd.name}",
            settings={"model": good},
        )


def _connectors(prefill: Service, decode: Service) -> Iterator[Finding]:
    texts = [(each, text_of(each, "kv-transfer-config")) for each in (prefill, decode)]
    names = [_connectors_of(text) for _, text in texts]
    if all(names) and not names[0] & names[1] and all(each & connectors() for each in names):
        yield judged(
            "tp-mismatch-disagg",
            prefill,
            Status.FAIL,
            f"{prefill.name} hands its cache over with {' and '.join(sorted(names[0]))}, {decode.name} takes it with {' and '.join(sorted(names[1]))}",
            setting=where(prefill, "kv-transfer-config"),
            do=f"Use {' and '.join(sorted(names[1]))} on both",
            settings={"kv-transfer-config": texts[1][1]},
        )


def _backends(prefill: Service, decode: Service) -> Iterator[Finding]:
    """SGLang: both sides of a transfer speak through one backend; its default is mooncake."""
    if engine_of(prefill) != "sglang" or engine_of(decode) != "sglang":
        return
    name = "disaggregation-transfer-backend"
    first, second = (text_of(each, name) or "mooncake" for each in (prefill, decode))
    if first == second or "$" in first + second or elsewhere(prefill, decode):
        return
    odd, value = (prefill, second) if setting_of(prefill, name) is not None else (decode, first)
    yield judged(
        "kv-transport-unsupported",
        odd,
        Status.FAIL,
        f"{prefill.name} hands its KV cache over with {first}, {decode.name} takes it with {second}: {name} must be the same",
        setting=where(odd, name),
        do=f"Use {name} {value} on both",
        settings={name: value},
    )


def elsewhere(*services: Service) -> bool:
    """True where a further file, or words that only the shell knows, may hold more settings."""
    return any(sizes_elsewhere(service) for service in services)


def _connectors_of(text: str | None) -> set[str]:
    """Every connector that a configuration names, also those that another one wraps (MultiConnector, PdConnector)."""
    return set(re.findall(r"kv_connector['\"]?\s*[:=]\s*['\"]?(\w+)", text or ""))


JUDGES = (judge_switched_on, judge_component_roles, judge_alike)
