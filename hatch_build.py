"""Build hook: the playbooks travel compiled, so that a read-only container need not parse YAML at every start."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompilePlaybooks(BuildHookInterface):  # type: ignore[type-arg]
    """Writes diag/_playbooks/compiled.json and known_lines.json into the wheel; a playbook that does not load fails the build."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the wheel is packed; an editable install reads the YAML itself."""
        if version == "editable":
            return
        sys.path.insert(0, self.root)
        from diag.playbooks.base import COMPILED, compile_folder, known_lines_of_folder
        from diag.playbooks.known_lines import KNOWN

        place = Path(tempfile.mkdtemp())
        for name, make in ((COMPILED, compile_folder), (KNOWN, known_lines_of_folder)):
            (place / name).write_text(make(Path(self.root) / "playbooks"), encoding="utf-8")
            build_data["force_include"][str(place / name)] = f"diag/_playbooks/{name}"
