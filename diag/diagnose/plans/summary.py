"""What a report says of the plans themselves: `facts.launch`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diag.diagnose.plans.case import Case
from diag.diagnose.plans.model_facts import ModelFacts
from diag.diagnose.plans.settings import engine_of
from diag.model.launch import Hardware, LaunchPlan


def launch_facts(
    plans: Sequence[LaunchPlan], hardware: Hardware | None, model: ModelFacts | None = None
) -> dict[str, Any]:
    """`{services: [...]}` with the contract's keys; `memory` is None where nothing could be reckoned."""
    services = []
    for plan in plans:
        case = Case(plan, hardware, model)
        for service in plan.services:
            memory = None
            if engine_of(service):
                found = case.estimate(service)
                memory = found.facts() if found.weights_bytes_per_gpu is not None else None
            services.append(
                {
                    "name": service.name,
                    "role": service.role,
                    "tensor_parallel_size": service.tensor_parallel_size,
                    "pipeline_parallel_size": service.pipeline_parallel_size,
                    "data_parallel_size": service.data_parallel_size,
                    "replicas": service.replicas,
                    "gpus": service.gpus_per_replica,
                    "model": service.model,
                    "framework": service.framework,
                    "plan": plan.source,
                    "memory": memory,
                }
            )
    return {"services": services}
