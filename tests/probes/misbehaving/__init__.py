"""Probes that do what probes must not do; the runner has to survive every one."""
