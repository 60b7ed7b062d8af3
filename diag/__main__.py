"""`python -m diag` is the command `diag`."""

import sys

from diag.cli.start import run

sys.exit(run())
