"""The whole base in memory: found beside the package or in the wheel, checked, cached as JSON (never pickle)."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import diag
from diag.playbooks.known_lines import KNOWN, Line, collect, stored
from diag.playbooks.known_lines import dump as dump_lines
from diag.playbooks.schema import Clause, Condition, FixText, Playbook, Signal
from diag.system import UserError

COMPILED = "compiled.json"
"""Written into the wheel at build time, so that a read-only container need not parse YAML."""


class SignalStrings(NamedTuple):
    """What the log reader needs of a signal."""

    playbook: str
    name: str
    kind: str
    parts: Sequence[str]
    literals: Sequence[Sequence[str]]
    few: bool
    """Mere context that captures nothing: a few of its lines tell as much as all."""


def _few(says: str, conditions: Sequence[Any], parts: Sequence[str]) -> bool:
    return says == "context" and not conditions and not any("(?P<" in part for part in parts)


class StoredPlaybooks(Mapping[str, Playbook]):
    """Playbooks in their stored form, each read and made into a `Playbook` when it is first asked for."""

    def __init__(self, index: Mapping[str, tuple[int, int, Sequence[str]]], bodies: bytes) -> None:
        self._index = index
        self._bodies = bodies
        self._made: dict[str, Playbook] = {}

    def _raw(self, name: str) -> dict[str, Any]:
        start, length, _ = self._index[name]
        entry: dict[str, Any] = json.loads(self._bodies[start : start + length])
        return entry

    def __getitem__(self, name: str) -> Playbook:
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = _thaw(self._raw(name))
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def kinds(self) -> Iterator[tuple[str, Sequence[str]]]:
        """(id, kinds of its signals) of every playbook."""
        return ((name, kinds) for name, (_, _, kinds) in self._index.items())

    def signals(self) -> Iterator[SignalStrings]:
        """Every signal's strings."""
        for name in self._index:
            for signal in self._raw(name)["signals"].values():
                few = _few(signal["says"], signal["conditions"], signal["parts"])
                yield SignalStrings(
                    name, signal["name"], signal["kind"], signal["parts"], signal["literals"], few
                )


@dataclass(frozen=True, slots=True)
class Base:
    """Every playbook by id, and where compiled forms of it may be kept."""

    playbooks: Mapping[str, Playbook] = field(default_factory=dict, repr=False)

    key: str = ""
    """Changes with any playbook file and with the version of diag."""
    cache: Path | None = None
    files: tuple[Path, ...] = field(default=(), repr=False)
    """The YAML files it was made from."""

    def known_lines(self) -> list[Line]:
        """Messages of the samples, each with its cause; read or worked out when first asked for."""
        places = [home() / KNOWN] if self.key == _key([home() / COMPILED]) else []
        places += [self.cache / f"lines-{self.key}.json"] if self.cache is not None else []
        for place in places:
            lines = stored(place)
            if lines is not None:
                return lines
        lines = _collected(self.files, self.key)
        if self.cache is not None:
            write_private(self.cache / f"lines-{self.key}.json", dump_lines(lines).encode())
        return lines

    def kinds(self) -> Iterator[tuple[str, Sequence[str]]]:
        """(id, kinds of its signals) of every playbook, without making any."""
        if isinstance(self.playbooks, StoredPlaybooks):
            return self.playbooks.kinds()
        return ((name, _kinds(one)) for name, one in self.playbooks.items())

    def signals(self) -> Iterator[SignalStrings]:
        """Every signal's strings, without making whole playbooks."""
        if isinstance(self.playbooks, StoredPlaybooks):
            yield from self.playbooks.signals()
            return
        for playbook in self.playbooks.values():
            for signal in playbook.signals.values():
                few = _few(signal.says, signal.conditions, signal.parts)
                yield SignalStrings(playbook.id, signal.name, signal.kind, signal.parts, signal.literals, few)


def home() -> Path:
    """The folder of the playbooks: inside the wheel, or at the top of a checkout."""
    package = Path(diag.__file__).parent
    inside = package / "_playbooks"
    return inside if inside.is_dir() else package.parent / "playbooks"


def playbook_files(folder: Path) -> list[Path]:
    """Every playbook file below a folder."""
    return sorted(path for path in folder.rglob("*.yaml") if path.is_file())


def load_base(
    extra: Sequence[Path] = (), *, samples: bool = False, broken: list[UserError] | None = None
) -> Base:
    """Load the project's playbooks and those of the `extra` folders.

    Without `samples` a cached or compiled form is taken where it is up to date. Raises UserError for a
    playbook that does not load and for ids that occur twice; with a `broken` list, such files are put there
    and left out (for authors who work on several at once).
    """
    folders = [home(), *extra]
    for folder in extra:
        if not folder.is_dir():
            raise UserError("is not a folder of playbooks", where=str(folder), code="no-such-folder")
    files = [path for folder in folders for path in playbook_files(folder)]
    if not files:
        raise UserError("holds no playbooks", where=str(folders[0]), code="empty-base")
    if samples or broken is not None:
        return Base(_load_all(files, broken), _key(files), files=tuple(files))
    compiled = folders[0] / COMPILED
    if not extra and compiled.is_file():
        ready = _read_stored(compiled)
        if ready is not None:
            return Base(ready, _key([compiled]), cache_folder(), tuple(files))
    key = _key(files)
    cache = cache_folder()
    if cache is not None:
        ready = _read_stored(cache / f"base-{key}.json")
        if ready is not None:
            return Base(ready, key, cache, tuple(files))
    playbooks = {
        name: dataclasses.replace(one, fires=(), silent=(), blind=())
        for name, one in _load_all(files).items()
    }
    if cache is not None:
        write_private(cache / f"base-{key}.json", dump(playbooks).encode())
    return Base(playbooks, key, cache, tuple(files))


def _load_all(files: Sequence[Path], broken: list[UserError] | None = None) -> dict[str, Playbook]:
    from diag.playbooks.load import load_playbook

    found: dict[str, Playbook] = {}
    for path in files:
        try:
            playbook = load_playbook(path)
        except UserError as error:
            if broken is None:
                raise
            broken.append(error)
            continue
        if playbook.id in found:
            raise UserError(
                f"id {playbook.id!r} is already taken by {found[playbook.id].source}", where=str(path)
            )
        found[playbook.id] = playbook
    return found


def mark(text: str) -> str:
    """A short name for a state of files. Whoever could forge one could write the cache itself."""
    raw = text.encode()
    return f"{zlib.crc32(raw):08x}{zlib.adler32(raw):08x}{len(raw):x}"


def states(paths: Iterable[Path]) -> str:
    """Path, time and size of each file that is there."""
    found = []
    for path in paths:
        with contextlib.suppress(OSError):
            state = os.stat(path)  # noqa: PTH116  (a third of the time of the method)
            found.append(f"{path}:{state.st_mtime_ns}:{state.st_size}")
    return "|".join(found)


def _key(files: Sequence[Path]) -> str:
    own = Path(__file__).parent
    return mark(
        f"{diag.__version__}/3|{states([*files, own / 'schema.py', own / 'load.py', own / 'literals.py'])}"
    )


def cache_folder() -> Path | None:
    """A folder of ours that nobody else can write; None where there is none."""
    chosen = os.environ.get("DIAG_CACHE_DIR") or str(
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "launch-diag"
    )
    path = Path(chosen)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = path.stat()
    except OSError:
        return None
    if state.st_uid != os.getuid() or state.st_mode & 0o022 or not os.access(path, os.W_OK):
        return None
    return path


def write_private(path: Path, content: bytes) -> None:
    """Write a cache file atomically; a cache that cannot be written is no error."""
    import tempfile  # (brings `random` with it, and is rarely needed)

    with contextlib.suppress(OSError):
        handle, name = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).replace(path)


def compile_folder(folder: Path) -> str:
    """All playbooks of a folder in their stored form."""
    return dump(_load_all(playbook_files(folder)))


@functools.lru_cache(maxsize=2)
def _collected(files: tuple[Path, ...], _key: str) -> list[Line]:
    return collect(_load_all(files, []).values())


def known_lines_of_folder(folder: Path) -> str:
    """The samples' telling messages of all playbooks of a folder in their stored form."""
    return dump_lines(collect(_load_all(playbook_files(folder)).values()))


def _kinds(playbook: Playbook) -> list[str]:
    return sorted({signal.kind for signal in playbook.signals.values()})


def dump(playbooks: Mapping[str, Playbook]) -> str:
    """All playbooks without their samples: a line of JSON with their places, then each as JSON of its own.

    Most commands need a few of them; reading all of them takes longer than a small log.
    """
    index: dict[str, tuple[int, int, list[str]]] = {}
    bodies: list[str] = []
    start = 0
    for name, playbook in playbooks.items():
        plain = dataclasses.asdict(dataclasses.replace(playbook, fires=(), silent=(), blind=()))
        body = json.dumps(plain, ensure_ascii=True, separators=(",", ":"))
        index[name] = (start, len(body), _kinds(playbook))
        bodies.append(body)
        start += len(body)
    head = json.dumps({"version": diag.__version__, "playbooks": index}, separators=(",", ":"))
    return head + "\n" + "".join(bodies)


def _read_stored(path: Path) -> StoredPlaybooks | None:
    try:
        head, _, bodies = path.read_bytes().partition(b"\n")
        raw = json.loads(head)
        whole = sum(length for _, length, _ in raw["playbooks"].values())
        if raw["version"] != diag.__version__ or whole != len(bodies):
            return None
        return StoredPlaybooks(raw["playbooks"], bodies)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _thaw(entry: dict[str, Any]) -> Playbook:
    plain = {key: _tuples(value) for key, value in entry.items()}
    plain["signals"] = {
        name: Signal(
            **{
                **{key: _tuples(value) for key, value in signal.items()},
                "conditions": tuple(
                    Condition(**{key: _tuples(value) for key, value in one.items()})
                    for one in signal["conditions"]
                ),
            }
        )
        for name, signal in entry["signals"].items()
    }
    plain["when"] = tuple(
        Clause(**{key: _tuples(value) for key, value in clause.items()}) for clause in entry["when"]
    )
    plain["fixes"] = tuple(
        FixText(**{key: _tuples(value) for key, value in fix.items()}) for fix in entry["fixes"]
    )
    return Playbook(**plain)
