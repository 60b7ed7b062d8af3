"""Settings of any source made into a Service."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from diag.model.launch import Setting
from diag.observe.plans.interface import Insertion, PlacedService
from diag.observe.plans.values import as_bool, as_int

MODEL_OPTIONS = ("model", "model-path", "model-name", "model-tag", "model_path")


def value_of(options: Mapping[str, Setting], *names: str) -> Any:
    """The value of the first of `names` that is set."""
    for name in names:
        if name in options and options[name].value is not None:
            return options[name].value
    return None


def build_service(
    name: str,
    options: Mapping[str, Setting],
    *,
    env: Mapping[str, Setting] | None = None,
    role: str | None = None,
    framework: str | None = None,
    replicas: int | None = None,
    gpus: int | None = None,
    nodes: int | None = None,
    path: str = "",
    line: int | None = None,
    insertion: Insertion | None = None,
    extent: tuple[int, int] | None = None,
    program: str = "",
    notes: Mapping[str, str] | None = None,
    unknown: tuple[str, ...] = (),
    flags: Mapping[str, tuple[int, int]] | None = None,
    cures: Mapping[str, tuple[tuple[int, int, str], ...]] | None = None,
) -> PlacedService:
    """A service from its options by long name. Sizes the options do not tell stay None."""
    model = value_of(options, *MODEL_OPTIONS)
    expert = value_of(options, "enable-expert-parallel", "enable-ep-moe")
    expert_size = as_int(value_of(options, "expert-parallel-size"))
    return PlacedService(
        name=name,
        role=role or role_of(name, options, program),
        framework=framework,
        model=str(model) if model is not None else None,
        tensor_parallel_size=as_int(value_of(options, "tensor-parallel-size")),
        pipeline_parallel_size=as_int(value_of(options, "pipeline-parallel-size")),
        data_parallel_size=as_int(value_of(options, "data-parallel-size")),
        expert_parallel=as_bool(expert) if expert is not None else (expert_size > 1 if expert_size else None),
        replicas=replicas,
        gpus_per_replica=gpus,
        nodes_per_replica=nodes,
        options=dict(options),
        env=dict(env or {}),
        path=path,
        line=line,
        insertion=insertion,
        extent=extent,
        program=program,
        notes=dict(notes or {}),
        unknown_options=unknown,
        flags=dict(flags or {}),
        cures=dict(cures or {}),
    )


def role_of(name: str, options: Mapping[str, Setting], program: str = "") -> str:
    """What a process is for, first from its options, then from its name."""
    if as_bool(value_of(options, "is-prefill-worker")):
        return "prefill"
    if as_bool(value_of(options, "is-decode-worker")):
        return "decode"
    mode = str(value_of(options, "disaggregation-mode", "server-role", "server_role") or "").lower()
    if mode in ("prefill", "decode"):
        return mode
    if mode in ("context", "ctx"):
        return "prefill"
    if mode in ("generation", "gen"):
        return "decode"
    kv_role = re.search(
        r"kv_role\W+(kv_producer|kv_consumer)\b", str(value_of(options, "kv-transfer-config") or "")
    )
    if kv_role is not None:
        return "prefill" if kv_role.group(1) == "kv_producer" else "decode"
    if program.endswith(("frontend", "router", "planner", "disaggregated", "mocker")):
        return "planner" if program.endswith("planner") else "router" if "router" in program else "frontend"
    return _role_of_name(name) if not program or program.startswith("dynamo") else "worker"


_NAMED_ROLES = (
    (r"prefill", "prefill"),
    (r"decode", "decode"),
    (r"frontend|gateway", "frontend"),
    (r"router|balancer|\bepp\b", "router"),
    (r"planner", "planner"),
    (r"processor|metrics|grafana|prometheus|etcd|nats", "other"),
    (r"worker|engine|vllm|sglang|trtllm", "worker"),
)


def _role_of_name(name: str) -> str:
    for pattern, role in _NAMED_ROLES:
        if re.search(pattern, name, re.IGNORECASE):
            return role
    return "other"
