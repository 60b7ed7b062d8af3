"""What a judge sees, and how it speaks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from diag.diagnose.plans.hardware import ASSUMED, GIB, GpuSpec, spec_of
from diag.diagnose.plans.memory import MemoryEstimate, estimate
from diag.diagnose.plans.model_facts import ModelFacts
from diag.diagnose.plans.models import facts_of_model
from diag.diagnose.plans.settings import engine_of, exclusive, pp_of, setting_of, tp_of
from diag.model import Finding, Reason, Status
from diag.model.launch import Hardware, LaunchPlan, Service, Setting


@dataclass
class Case:
    """One plan with the hardware it is meant for. Estimates are reckoned once."""

    plan: LaunchPlan
    hardware: Hardware | None
    model: ModelFacts | None = None
    """Given by the user (`--params`, `--config`); stands above whatever the plan's names say."""
    spec: GpuSpec | None = None
    _estimates: dict[tuple[int, bool], MemoryEstimate] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.spec = spec_of(self.hardware)

    @property
    def services(self) -> tuple[Service, ...]:
        """All services of the plan."""
        return self.plan.services

    @property
    def engines(self) -> list[Service]:
        """Services that load a model."""
        return [
            service
            for service in self.plan.services
            if engine_of(service) and service.role not in ("frontend", "router", "planner", "other")
        ]

    def facts(self, service: Service) -> ModelFacts:
        """What is known of a service's model. A bare name that tells nothing borrows from its peers' model."""
        if self.model is not None and self.model.known:
            return self.model
        facts = facts_of_model(service.model)
        if facts.known:
            return facts
        peers = [facts_of_model(peer.model) for peer in self.engines if peer is not service]
        best = next((each for each in peers if each.known), None)
        return (
            replace(best, certain=False)
            if best is not None and self.plan.kind.startswith(("dynamo", "dgd"))
            else facts
        )

    def estimate(self, service: Service, *, lean: bool = False) -> MemoryEstimate:
        """The memory of one GPU of a service. Lean: the least that any version of the engine would need."""
        key = (id(service), lean)
        if key not in self._estimates:
            self._estimates[key] = estimate(service, self.hardware, self.facts(service), lean=lean)
        return self._estimates[key]

    @property
    def memory_certain(self) -> bool:
        """False where a product's memory had to be assumed."""
        return self.hardware is None or ASSUMED not in self.hardware.origin

    def pairs(self) -> list[tuple[Service, Service]]:
        """(prefill, decode) services that hand a cache to each other."""
        prefill = [each for each in self.services if each.role == "prefill" and not absent(each)]
        decode = [each for each in self.services if each.role == "decode"] or [
            each for each in self.engines if each.role == "worker"
        ]
        return [
            (first, second)
            for first in prefill
            for second in decode
            if not exclusive(first, second) and self._one_graph(first, second) and not _unclear(first, second)
        ]

    def _one_graph(self, first: Service, second: Service) -> bool:
        """False for workers of two different graphs in one file."""
        names = [dict(getattr(each, "notes", {})).get("pod") for each in (first, second)]
        return not self.plan.kind.startswith("dgd") or names[0] == names[1]


def _unclear(first: Service, second: Service) -> bool:
    """True for two functions of a script of which one has rivals for its port: which of them run together is not known."""
    notes = [dict(getattr(each, "notes", {})) for each in (first, second)]
    functions = {each.get("function") for each in notes}
    return len(functions) > 1 and any("/" in each.get("branch", "") for each in notes)


def absent(service: Service) -> bool:
    """True for a service that is scaled to nothing."""
    return service.replicas == 0


def gpus_wanted(service: Service) -> int:
    """GPUs one replica of an engine asks for on one node: as the plan grants, else as the engine's sizes need."""
    if service.gpus_per_replica is not None:
        return service.gpus_per_replica
    if not engine_of(service) or service.role in ("frontend", "router", "planner"):
        return 0
    return ranks_of(service) // max(1, service.nodes_per_replica or 1)


def ranks_of(service: Service) -> int:
    """Processes with a GPU of one replica: tensor × pipeline × data parallel (SGLang's data parallel attention adds none)."""
    ranks = tp_of(service) * pp_of(service)
    data = service.data_parallel_size or 1
    local = setting_of(service, "data-parallel-size-local")
    if local is not None and str(local.value).isdigit():
        data = max(1, int(local.value))
    if engine_of(service) == "vllm" or (
        engine_of(service) == "sglang" and setting_of(service, "enable-dp-attention") is None
    ):
        ranks *= max(1, data)
    return ranks


def gib(value: float | None) -> str:
    """Bytes as text: `27.5 GiB`."""
    return "?" if value is None else f"{value / GIB:.1f} GiB"


def judged(
    cause: str,
    service: Service | None,
    status: Status,
    summary: str,
    *,
    setting: Setting | None = None,
    certain: bool = True,
    do: str = "",
    settings: dict[str, Any] | None = None,
    variables: dict[str, Any] | None = None,
    rename: tuple[str, str] | None = None,
    rename_variable: tuple[str, str] | None = None,
    remove: str | None = None,
    cure: str | None = None,
    alternatives: Iterable[str] = (),
    reason: Reason | None = None,
    **figures: Any,
) -> Finding:
    """One judgement. `settings` are the options to set, by the service's own names; `variables` those of its environment;
    `rename` an option written wrongly and its right name; `cure` a change that the plan's reader has prepared."""
    line = (
        setting.line
        if setting is not None and setting.line is not None
        else service.line
        if service is not None
        else None
    )
    file = (
        setting.path if setting is not None and setting.path else service.path if service is not None else ""
    ) or None
    data: dict[str, Any] = {
        "cause": cause,
        "file": file,
        "line": line,
        "key": setting.key if setting is not None else None,
        "certain": certain,
        **figures,
    }
    if do or settings:
        fix: dict[str, Any] = {"do": do, "settings": settings or {}, "alternatives": list(alternatives)}
        fix |= {
            key: value
            for key, value in (
                ("variables", variables),
                ("rename", rename),
                ("rename_variable", rename_variable),
                ("remove", remove),
                ("cure", cure),
            )
            if value
        }
        data["fix"] = fix
    return Finding(
        f"plan.{cause}", service.name if service is not None else "", status, summary, reason, data
    )


Judge = Callable[[Case], Iterable[Finding]]
"""A pure function: it reads the case, and yields what is wrong, what is only worth a note, or nothing."""
JudgeTogether = Callable[[Sequence[Case]], Iterable[Finding]]
"""The same over all plans that were given at once."""


def notes_of(service: Service) -> dict[str, str]:
    """What the reader noted of a service's surroundings."""
    return dict(getattr(service, "notes", {}))


def named_file(cases: Sequence[Case], name: str | None, kind: str) -> Service | None:
    """The one service of the file that another file names: by its own name, as folders differ between machines."""
    wanted = str(name or "").rsplit("/", 1)[-1]
    found = [
        case.plan.services[0]
        for case in cases
        if wanted
        and case.plan.kind == kind
        and case.plan.services
        and case.plan.source.rsplit("/", 1)[-1] == wanted
    ]
    return found[0] if len(found) == 1 else None


def where(service: Service, *names: str) -> Setting | None:
    """The first of these settings, to point at."""
    return setting_of(service, *names)
