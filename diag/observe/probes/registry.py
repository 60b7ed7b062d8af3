"""Which probes there are: found by looking into the package, never listed."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from diag.observe.probes.interface import Probe
from diag.system import UserError

PACKAGE = "diag.observe.probes"


@dataclass(frozen=True, slots=True)
class Registry:
    """What discovery found. A probe file that cannot be imported is kept by name: it must not hide."""

    probes: tuple[Probe, ...]
    broken: tuple[tuple[str, str], ...] = ()
    """(probe id as its file name says, the error)."""


def module_name(probe_id: str) -> str:
    """The file of a probe: `net.interfaces` lives in `net_interfaces.py`."""
    return probe_id.replace(".", "_").replace("-", "_")


def discover(package: str = PACKAGE) -> Registry:
    """Import every module of `package` and keep those that carry a PROBE, by id."""
    home = importlib.import_module(package)
    probes: dict[str, Probe] = {}
    broken: list[tuple[str, str]] = []
    for info in pkgutil.iter_modules(home.__path__):
        if info.ispkg or info.name == "child":
            continue
        try:
            probe = getattr(importlib.import_module(f"{package}.{info.name}"), "PROBE", None)
        except Exception as error:  # noqa: BLE001 - whatever one file does, the others are still run
            broken.append((info.name.replace("_", ".", 1), f"{type(error).__name__}: {error}"))
            continue
        if isinstance(probe, Probe):
            probes[probe.id] = probe
    return Registry(tuple(probes[name] for name in sorted(probes)), tuple(broken))


def list_probes() -> tuple[Probe, ...]:
    """Every probe of this installation, by id."""
    return discover().probes


def load_probe(probe_id: str, package: str) -> Probe:
    """The one probe a child is to run; only its own file is imported. Raises ImportError or LookupError."""
    try:
        probe = getattr(importlib.import_module(f"{package}.{module_name(probe_id)}"), "PROBE", None)
    except ModuleNotFoundError:
        probe = None
    if isinstance(probe, Probe) and probe.id == probe_id:
        return probe
    found = [probe for probe in discover(package).probes if probe.id == probe_id]
    if not found:
        raise LookupError(f"no probe {probe_id} in {package}")
    return found[0]


def select(probes: Sequence[Probe], only: Iterable[str], skip: Iterable[str]) -> set[str]:
    """The ids to run. Names are ids or their first parts (`gpu`). Raises UserError for one that names nothing."""
    only, skip = tuple(only), tuple(skip)
    ids = [probe.id for probe in probes]
    for name in (*only, *skip):
        if not any(_covers(name, probe_id) for probe_id in ids):
            raise _unknown(name, ids)
    wanted = {probe_id for probe_id in ids if not only or any(_covers(name, probe_id) for name in only)}
    return {probe_id for probe_id in wanted if not any(_covers(name, probe_id) for name in skip)}


def _covers(name: str, probe_id: str) -> bool:
    return probe_id == name or probe_id.startswith(f"{name}.")


def _unknown(name: str, ids: Sequence[str]) -> UserError:
    words = sorted({*ids, *(probe_id.split(".", 1)[0] for probe_id in ids)})
    near = difflib.get_close_matches(name, words, n=1, cutoff=0.5)
    near = near or [word for word in ids if name in word][:1]
    advice = f"did you mean {near[0]}?" if near else f"there are: {', '.join(words)}"
    return UserError(f"no probe is called {name!r}", help=advice, code="unknown-probe")
