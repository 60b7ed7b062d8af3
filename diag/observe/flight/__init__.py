"""Flight-recorder dumps."""
