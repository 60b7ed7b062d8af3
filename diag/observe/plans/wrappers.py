"""What stands before a program on its command line: `mpirun -n 8`, `srun --ntasks 16`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
