"""A probe that takes its time, for Ctrl-C."""
