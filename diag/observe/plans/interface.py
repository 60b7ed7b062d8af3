"""The contract every plan reader keeps. Discovery finds the files; nobody edits a list.

A reader is one file `diag/observe/plans/read_<format>.py` with one attribute `READER`. `sniff` looks at the text
and says whether this is its format (by content; the name only breaks ties); `read` returns the plan, every
setting with its line and key. Readers run nothing, open nothing else and expand no variable from our own environment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from diag.model.launch import LaunchPlan, Service, Setting


@dataclass(frozen=True, slots=True)
class Reader:
    """One plan format."""

    kind: str
    """The `LaunchPlan.kind` it makes."""
    sniff: Callable[[str, str], bool]
    """(text, path) -> is it this format? Must be cheap: no parsing."""
    read: Callable[[str, str], LaunchPlan]
    """(text, path) -> the plan. Raises UserError, located, for what cannot be read."""
    order: int = 50
    """Readers with a lower number look first: the narrow formats before the wide ones."""


@dataclass(frozen=True, slots=True)
class PlacedSetting(Setting):
    """A setting whose value's place in the text is known, so that it can be changed there."""

    start: int = -1
    end: int = -1
    style: str = "yaml"
    """yaml (a scalar), yaml-item (a scalar that holds `--name=value`), shell (a word of a command line)."""
    inherited: bool = False
    """Stands in a shared block (`Common`), not with the service."""


@dataclass(frozen=True, slots=True)
class Insertion:
    """Where a service takes a further option."""

    offset: int
    style: str
    """yaml-key (a line `name: value`), yaml-args (two list items), shell (words on the command line)."""
    indent: int = 0
    flow: bool = False


@dataclass(frozen=True, slots=True)
class PlacedService(Service):
    """A service that can be edited."""

    insertion: Insertion | None = None
    extent: tuple[int, int] | None = None
    """Offsets of the whole service's text, key included, where it can be taken out as a whole."""
    program: str = ""
    """The program whose options these are: `vllm serve`, `sglang.launch_server`, `dynamo.vllm` ..."""
    unknown_options: tuple[str, ...] = ()
    unknown_keys: tuple[str, ...] = ()
    """Keys of the engine's own file that the engine does not have, as written, those inside a block as `block.key`."""
    requested_gpus: int | None = None
    """GPUs the container or scheduler grants per node, where it says so apart from the engine's own sizes."""
    flags: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Options as written -> where the name stands."""
    spots: dict[str, Insertion] = field(default_factory=dict)
    """Options that do not go where the others go, by their long name."""
    cures: dict[str, tuple[tuple[int, int, str], ...]] = field(default_factory=dict)
    """Changes of the text around the command, by the fault they cure: (from, to, new text)."""
    notes: dict[str, str] = field(default_factory=dict)
    """Facts of the surrounding manifest: shm_bytes, hostNetwork, probes ... as plain text."""
