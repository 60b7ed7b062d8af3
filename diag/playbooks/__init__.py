"""Loading, checking and compiling playbooks."""
