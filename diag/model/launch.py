"""A launch as it was asked for, whatever file or log said so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Setting:
    """One option or variable of a plan, and where it stands."""

    value: Any
    path: str = ""
    line: int | None = None
    key: str = ""
    """Where it stands in its file: `PrefillWorker.ServiceArgs.resources.gpu`, `args[3]`."""


@dataclass(frozen=True, slots=True)
class Service:
    """One kind of process of a launch: a worker group, a frontend, a router.

    Sizes are None where the plan does not say; `options` holds every option by its long name
    with dashes (`tensor-parallel-size`), whatever the framework called it, `env` its variables.
    """

    name: str
    role: str = "worker"
    """worker, prefill, decode, frontend, router, planner, trainer or other."""
    framework: str | None = None
    """vllm, sglang, trtllm, dynamo, torchrun, ray, deepspeed, megatron or accelerate."""
    model: str | None = None
    tensor_parallel_size: int | None = None
    pipeline_parallel_size: int | None = None
    data_parallel_size: int | None = None
    expert_parallel: bool | None = None
    replicas: int | None = None
    gpus_per_replica: int | None = None
    """GPUs one replica may see on one node."""
    nodes_per_replica: int | None = None
    options: Mapping[str, Setting] = field(default_factory=dict)
    env: Mapping[str, Setting] = field(default_factory=dict)
    path: str = ""
    line: int | None = None


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """What one or more plan files (or a log's printed configuration) ask for."""

    kind: str
    """dynamo-2025, dgd-v1alpha1, dgd-v1beta1, command-line, log, ..."""
    source: str
    services: tuple[Service, ...] = ()
    nodes: int | None = None
    problems: tuple[str, ...] = ()
    """What could not be understood, in sentences."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a plan is judged against. None: not known."""

    gpu_name: str | None = None
    gpus_per_node: int | None = None
    nodes: int | None = None
    gpu_memory_bytes: int | None = None
    """Total memory of one GPU as the driver reports it."""
    driver_version: str | None = None
    origin: str = ""
    """`--gpus`, `probed`, `report:<path>` or `log`."""
