"""How the services of a plan can share the GPUs there: the change that keeps most of what was asked for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from diag.diagnose.plans.case import Case, absent, gib, gpus_wanted
from diag.diagnose.plans.fitting import fitting, legal_tp
from diag.diagnose.plans.hardware import gpu_spec
from diag.diagnose.plans.memory import MemoryEstimate, estimate
from diag.diagnose.plans.model_facts import ModelFacts
from diag.diagnose.plans.settings import pp_of, tp_of
from diag.diagnose.plans.variants import with_options
from diag.model.launch import Hardware, Service

LAYOUT_CAUSES = (
    "gpu-count-exceeded",
    "gpu-oom-weights",
    "gpu-oom-kv-cache",
    "gpu-oom-runtime",
    "tp-not-divisible",
    "launcher-layout",
    "tp-mismatch-disagg",
)
ONE_NODE = ("dynamo-2025", "compose", "command-line", "docker", "shell")
"""Plans whose services all start on the node where the plan is run."""
UNBOUNDED = 1 << 30
LARGER = ("L4", "A10", "L40S", "A100-80GB", "H100", "H200", "B200")
"""Products to name where the plan's own GPUs cannot do it, the smallest first."""


@dataclass(frozen=True, slots=True)
class Place:
    """One service's part of a layout."""

    service: Service
    tp: int
    replicas: int
    settings: dict[str, object] = field(default_factory=dict)

    @property
    def gpus(self) -> int:
        """GPUs of all replicas, over all nodes."""
        return self.tp * pp_of(self.service) * max(1, self.service.data_parallel_size or 1) * self.replicas


@dataclass(frozen=True, slots=True)
class Layout:
    """Services that stay, with their sizes, and services that must go."""

    places: tuple[Place, ...]
    removed: tuple[Service, ...] = ()


def solve(case: Case) -> Layout | None:
    """A layout for the GPUs there that keeps as much of the plan as can be kept; None if there is none.

    Order of what is given up: replicas, then GPUs per worker beyond what the weights need, then disaggregation.
    """
    hardware = case.hardware
    if hardware is None or not hardware.gpus_per_node:
        return _each_alone(case)
    total = gpus_in_all(case)
    services = [service for service in case.engines if not absent(service)]
    whole = _place_all(case, services, total)
    if whole is not None:
        return Layout(whole)
    prefill = tuple(service for service in services if service.role == "prefill")
    rest = [service for service in services if service.role != "prefill"]
    if prefill and rest and (places := _place_all(case, rest, total)) is not None:
        return Layout(places, prefill)
    return None


def gpus_in_all(case: Case) -> int:
    """GPUs that all services may take together; without bound where pods may go to any number of nodes."""
    hardware = case.hardware
    if hardware is None or not hardware.gpus_per_node:
        return UNBOUNDED
    nodes = hardware.nodes or case.plan.nodes
    if nodes is None and not case.plan.kind.startswith(ONE_NODE):
        return UNBOUNDED
    return hardware.gpus_per_node * (nodes or 1)


def _each_alone(case: Case) -> Layout | None:
    places = []
    for service in case.engines:
        found = next(fitting(case, service), None)
        if found is not None:
            places.append(Place(service, max(found[0], tp_of(service)), service.replicas or 1, found[1]))
    return Layout(tuple(places)) if places else None


def _place_all(case: Case, services: list[Service], total: int) -> tuple[Place, ...] | None:
    options: dict[str, list[tuple[int, dict[str, object]]]] = {}
    for service in services:
        known = case.facts(service).known
        options[service.name] = (
            list(fitting(case, service)) if known else [(tp, {}) for tp in legal_tp(case, service)]
        )
        if not options[service.name]:
            return None
    wishes = [_wish(service, options[service.name]) for service in services]
    places = [
        Place(service, tp, max(1, service.replicas or 1), settings)
        for service, (tp, settings) in zip(services, wishes, strict=True)
    ]
    places = _shrink(places, options, total)
    return tuple(places) if sum(place.gpus for place in places) <= total else None


def _wish(service: Service, fits: list[tuple[int, dict[str, object]]]) -> tuple[int, dict[str, object]]:
    """The size it has if that fits as it is, else the GPUs it was granted, else the smallest that fits."""
    by_size = dict(fits)
    own = [service.tensor_parallel_size, (service.gpus_per_replica or 0) // max(1, pp_of(service)) or None]
    sizes = [size for size in own if size in by_size]
    for size in sorted(
        sizes, key=lambda each: bool(by_size[each or 0])
    ):  # sizes that need nothing further come first
        if size is not None:
            return size, by_size[size]
    larger = [size for size, _ in fits if size >= tp_of(service)]
    chosen = min(larger) if larger else max(by_size)
    return chosen, by_size[chosen]


def _shrink(
    places: list[Place], options: dict[str, list[tuple[int, dict[str, object]]]], total: int
) -> list[Place]:
    """Fewer replicas of the largest service first, then smaller workers, until it fits or nothing is left to give."""
    while sum(place.gpus for place in places) > total:
        several = [place for place in places if place.replicas > 1]
        if several:
            largest = max(several, key=lambda place: (place.gpus, place.service.role == "prefill"))
            places = [
                replace(place, replicas=place.replicas - 1) if place is largest else place for place in places
            ]
            continue
        shrinkable = [
            (place, below)
            for place in places
            if (below := [each for each in options[place.service.name] if each[0] < place.tp])
        ]
        if not shrinkable:
            break
        largest, below = max(shrinkable, key=lambda pair: pair[0].tp)
        size, settings = below[-1]
        places = [
            replace(place, tp=size, settings=settings) if place is largest else place for place in places
        ]
    return places


def alternatives(case: Case, chosen: Layout | None) -> list[str]:
    """Other ways, each reckoned: quantized weights, more GPUs of the kind, larger GPUs."""
    services = [service for service in case.engines if not absent(service)]
    hardware = case.hardware
    if (
        not services
        or hardware is None
        or not hardware.gpus_per_node
        or not all(case.facts(each).known for each in services)
    ):
        return []
    total = gpus_in_all(case)
    lines = []
    need = [next(fitting(case, service, replace(hardware, gpus_per_node=64)), None) for service in services]
    if all(need):
        sizes = [each[0] for each in need if each is not None]
        if sum(sizes) > total:
            lines.append(
                f"{sum(sizes)} × {hardware.gpu_name} instead of {total} hold one worker of each service ("
                + ", ".join(
                    f"{service.name} TP {size}" for service, size in zip(services, sizes, strict=True)
                )
                + ")"
            )
    lines += _quantized(case, services, total)
    if chosen is None or chosen.removed:
        lines += _larger(case, services, hardware)
    return lines


def _quantized(case: Case, services: list[Service], total: int) -> list[str]:
    facts = [case.facts(service) for service in services]
    if any(each.method for each in facts):
        return []
    sizes: list[int] = []
    for service, each in zip(services, facts, strict=True):
        found = next(
            fitting(case, service, facts=replace(each, method="gptq", bits=4.0, file_bytes=None)), None
        )
        if found is None:
            return []
        sizes.append(found[0])
    if sum(sizes) > total:
        return []
    weights = [
        _weights(case, service, replace(each, method="gptq", bits=4.0, file_bytes=None), size)
        for service, each, size in zip(services, facts, sizes, strict=True)
    ]
    each_one = ", ".join(
        f"{service.name} TP {size}: {gib(weight)} of weights a GPU"
        for service, size, weight in zip(services, sizes, weights, strict=True)
    )
    return [
        f"4-bit weights (AWQ or GPTQ files of the same model): {sum(sizes)}{f' of {total}' if total < UNBOUNDED else ''} GPUs hold every service ({each_one}); costs some quality, keeps the rest of the plan"
    ]


def _weights(case: Case, service: Service, facts: ModelFacts, tp: int) -> int | None:
    return _reckon(case, with_options(service, {"tensor-parallel-size": tp}), facts).weights_bytes_per_gpu


def _reckon(case: Case, service: Service, facts: ModelFacts) -> MemoryEstimate:
    return estimate(service, case.hardware, facts)


def _larger(case: Case, services: list[Service], hardware: Hardware) -> list[str]:
    for name in LARGER:
        spec = gpu_spec(name)
        if spec is None or spec.memory_bytes <= 1.05 * (hardware.gpu_memory_bytes or 0):
            continue
        other = replace(hardware, gpu_name=name, gpu_memory_bytes=spec.memory_bytes)
        found = [next(fitting(case, service, other), None) for service in services]
        sizes = [each[0] for each in found if each is not None]
        if len(sizes) == len(services) and sum(sizes) <= (hardware.gpus_per_node or 0) * (
            hardware.nodes or 1
        ):
            return [
                f"{sum(sizes)} × {spec.name} ({gib(spec.memory_bytes)} each) hold one worker of each service"
            ]
    return []


def sentence(layout: Layout) -> str:
    """The layout in words."""
    kept = "; ".join(_place_in_words(place) for place in layout.places)
    return kept + "".join(
        f"; without {service.name}, which has no room beside it (serve the aggregated graph)"
        for service in layout.removed
    )


def _place_in_words(place: Place) -> str:
    further = "".join(f", {name} {value}" for name, value in place.settings.items())
    return f"{place.service.name}: {place.replicas} worker{'s' if place.replicas > 1 else ''} × {place.tp} GPUs (TP {place.tp}{further})"


def settings_of(place: Place, *, one_node: bool = True) -> dict[str, object]:
    """The options that a place changes in its service."""
    service, changes = place.service, dict(place.settings)
    per_worker = place.tp * pp_of(service) // max(1, service.nodes_per_replica or 1)
    if place.tp != tp_of(service) or (service.tensor_parallel_size is None and place.tp > 1):
        changes["tensor-parallel-size"] = place.tp
    if (
        service.gpus_per_replica is not None
        and (gpus_wanted(service) < per_worker or (gpus_wanted(service) > per_worker and one_node))
        and not (service.data_parallel_size or 0) > 1
    ):
        changes["resources.gpu"] = per_worker
    if (service.replicas or 1) != place.replicas:
        changes["service.workers"] = place.replicas
    return changes
