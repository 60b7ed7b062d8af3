"""The links between the nodes as a grid: who reached whom, and how well. Drawn from `facts.network.links` of a job's report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diag.model import Report
from diag.report import wording as say

MOST_HTML, MOST_TEXT = 64, 16
"""Nodes drawn; of more, those with bad links first."""
STATES = {
    "open": (".", "open"), "closed": ("x", "closed"), "part": ("p", "a part of the ports closed"), "lossy": ("~", "loses packets"),
    "cut": ("m", "large packets vanish"), "slow": ("s", "slow"), "unmeasured": (" ", "not measured"),
}  # fmt: skip
"""State of a link, as `diag.diagnose.nodes` puts it into the facts -> (its letter on a screen, in words)."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Nodes in the order drawn, and what each found of each other."""

    ranks: tuple[int, ...]
    names: Mapping[int, str]
    links: Mapping[tuple[int, int], Mapping[str, Any]]
    left_out: int

    def state(self, a: int, b: int) -> str:
        """How node `a` found the way to node `b`."""
        told = str(self.links.get((a, b), {}).get("state", "unmeasured"))
        return told if told in STATES else "unmeasured"

    @property
    def bad(self) -> bool:
        """Whether any link is anything but open."""
        return any(self.state(*ends) not in ("open", "unmeasured") for ends in self.links)


def grid_of(report: Report, most: int) -> Grid | None:
    """The grid of a job's report; None where no links were tested."""
    network = report.facts.get("network")
    seen = network.get("links") if isinstance(network, Mapping) else None
    told = seen.get("links") if isinstance(seen, Mapping) else None
    if not isinstance(seen, Mapping) or not isinstance(told, Mapping) or not told:
        return None
    links: dict[tuple[int, int], Mapping[str, Any]] = {}
    for name, link in told.items():
        a, mark, b = str(name).partition(">")
        if mark and a.isdigit() and b.isdigit() and isinstance(link, Mapping):
            links[int(a), int(b)] = link
    nodes = seen.get("nodes")
    names = {
        int(rank): str(one.get("hostname") or f"node {rank}")
        for rank, one in (nodes.items() if isinstance(nodes, Mapping) else ())
        if str(rank).isdigit() and isinstance(one, Mapping)
    }
    every = sorted({rank for ends in links for rank in ends} | set(names))
    grid = Grid(tuple(every), names, links, 0)
    if len(every) <= most:
        return grid
    trouble = dict.fromkeys(every, 0)
    for ends in links:
        if grid.state(*ends) not in ("open", "unmeasured"):
            for rank in ends:
                trouble[rank] += 1
    shown = sorted(sorted(every, key=lambda rank: (-trouble[rank], rank))[:most])
    return Grid(tuple(shown), names, links, len(every) - most)


def draw_lines(report: Report) -> list[str]:
    """The grid for a screen, where something is wrong with a link; else nothing."""
    grid = grid_of(report, MOST_TEXT)
    if grid is None or not grid.bad:
        return []
    used = {grid.state(a, b) for a in grid.ranks for b in grid.ranks if a != b}
    legend = ", ".join(
        f"{letter} {words}" for state, (letter, words) in STATES.items() if state in used and letter.strip()
    )
    wide = max(len(str(rank)) for rank in grid.ranks)
    name = {rank: say.clean(grid.names.get(rank, f"node {rank}"))[:24] for rank in grid.ranks}
    margin = max(map(len, name.values()))
    lines = [
        f"Links, from row to column: {legend}",
        f"{'':{margin}}  {' ' * wide}  {' '.join(f'{rank:>{wide}}' for rank in grid.ranks)}",
    ]
    for a in grid.ranks:
        cells = ("-" if a == b else STATES[grid.state(a, b)][0] for b in grid.ranks)
        lines.append(
            f"{name[a]:{margin}}  {a:>{wide}}  {' '.join(f'{cell:>{wide}}' for cell in cells)}".rstrip()
        )
    if grid.left_out:
        lines.append(f"and {grid.left_out} more nodes")
    return lines


def draw_heat_map(report: Report) -> str:
    """The grid as an HTML table: red where closed, else the greener the nearer to this job's usual bandwidth."""
    grid = grid_of(report, MOST_HTML)
    if grid is None:
        return ""
    head = "".join(f"<th scope=col>{rank}</th>" for rank in grid.ranks)
    rows = []
    for a in grid.ranks:
        cells = "".join(_cell(grid, a, b) for b in grid.ranks)
        rows.append(f"<tr><th scope=row>{_text(grid.names.get(a, 'node'))} {a}</th>{cells}</tr>")
    keys = "".join(
        f"<span class='key {state}'>{_text(words)}</span> " for state, (_, words) in STATES.items()
    )
    more = f" {grid.left_out} more nodes are in report.json." if grid.left_out else ""
    return (
        f"<h2>Links</h2><div class='wide grid'><table class=grid><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        f"<p class=dim>From row to column; bandwidth of one TCP stream in Gbit/s. {keys}{more}</p>"
    )


def _cell(grid: Grid, a: int, b: int) -> str:
    if a == b:
        return "<td class=self></td>"
    link, state = grid.links.get((a, b), {}), grid.state(a, b)
    mbps, share = link.get("mbps"), link.get("share")
    shown = (
        f"{mbps / 1000:.2g}"
        if isinstance(mbps, (int, float)) and not isinstance(mbps, bool)
        else {"closed": "x", "cut": "m"}.get(state, "")
    )
    level = (
        f" l{min(4, max(0, round(float(share) * 4)))}"
        if state == "open" and isinstance(share, (int, float))
        else ""
    )
    facts = [STATES[state][1]]
    for key, words in (
        ("outcome", ""),
        ("interface", "over "),
        ("rtt_ms", "round trip ms "),
        ("mtu_bytes", "packets up to "),
        ("mbps", "Mbit/s "),
    ):
        if link.get(key) not in (None, "", "ok"):
            facts.append(f"{words}{link[key]}")
    title = f"{grid.names.get(a, a)} to {grid.names.get(b, b)}: {', '.join(facts)}"
    return f'<td class="{state}{level}" title="{_text(title)}">{_text(shown)}</td>'


def _text(value: object) -> str:
    import html

    return html.escape(say.clean(str(value)), quote=True)
