"""From a look at the launch's processes to who holds up whom. Pure."""

from diag.diagnose.stuck.gpus import judge_gpus
from diag.diagnose.stuck.open_question import standing_unexplained
from diag.diagnose.stuck.process import judge_processes
from diag.diagnose.stuck.ras import ras_seen
from diag.diagnose.stuck.store import judge_stores, waiting_to_meet
from diag.diagnose.stuck.verdict import judge_jobs, judge_together

__all__ = [
    "judge_gpus",
    "judge_jobs",
    "judge_processes",
    "judge_stores",
    "judge_together",
    "ras_seen",
    "standing_unexplained",
    "waiting_to_meet",
]
