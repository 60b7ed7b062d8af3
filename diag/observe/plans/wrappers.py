"""What stands before a program on its command line: `mpirun -n 8`, `srun --ntasks 16`, `apptainer exec IMAGE`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from diag.model.launch import Setting
from diag.observe.plans.interface import PlacedSetting
from diag.observe.plans.shell_words import Word
from diag.observe.plans.values import as_int

SRUN = {
    "-N": "slurm.nodes",
    "--nodes": "slurm.nodes",
    "-n": "slurm.ntasks",
    "--ntasks": "slurm.ntasks",
    "--ntasks-per-node": "slurm.ntasks-per-node",
    "--gpus-per-node": "slurm.gpus-per-node",
}
MPI = {"-n": "mpi.ranks", "-np": "mpi.ranks", "--np": "mpi.ranks", "-c": "mpi.ranks"}


def settings_of_wrappers(words: Sequence[Word], path: str) -> Iterator[tuple[str, Setting]]:
    """Counts that srun and mpirun are given. srun's own stand above the script's #SBATCH lines."""
    names: dict[str, str] = {}
    for index, word in enumerate(words):
        base = word.text.rsplit("/", 1)[-1]
        if base == "srun":
            names = SRUN
        elif base in ("mpirun", "mpiexec", "orterun"):
            names = MPI
        flag, equals, inline = word.text.partition("=")
        if flag not in names:
            continue
        value = inline if equals else words[index + 1].text if index + 1 < len(words) else ""
        number = as_int(value.rsplit(":", 1)[-1])
        if number is not None:
            place = word if equals else words[index + 1]
            yield (
                names[flag],
                PlacedSetting(number, path, place.line, flag, place.start, place.end, place.style),
            )


def notes_of_wrappers(words: Sequence[Word], env: Iterable[str]) -> dict[str, str]:
    """`sif`: a program inside a SIF container that is handed no GPU (`apptainer exec IMAGE` without --nv)."""
    texts = [word.text for word in words]
    start = next(
        (
            number
            for number, text in enumerate(texts[:-1])
            if text.rsplit("/", 1)[-1] in ("apptainer", "singularity")
            and texts[number + 1] in ("exec", "run")
        ),
        None,
    )
    if start is None or any(name.endswith(("TAINER_NV", "LARITY_NV", "_NVCCLI", "_ROCM")) for name in env):
        return {}
    inside = texts[start:]
    handed = any(text in ("--nv", "--nvccli", "--rocm") for text in inside)
    open_ = any("$" in text and not text.strip("'\"").endswith((".sif", ".img")) for text in inside)
    return {} if handed or open_ else {"sif": "true", "sif.line": str(words[start].line or "")}
