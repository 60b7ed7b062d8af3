"""From a look at the launch's processes to who holds up whom. Pure."""

from diag.diagnose.stuck.open_question import standing_unexplained
from diag.diagnose.stuck.process import PROBE as PROCESS_PROBE
from diag.diagnose.stuck.process import judge_processes
from diag.diagnose.stuck.verdict import PROBE as VERDICT_PROBE
from diag.diagnose.stuck.verdict import judge_jobs

__all__ = ["PROCESS_PROBE", "VERDICT_PROBE", "judge_jobs", "judge_processes", "standing_unexplained"]
