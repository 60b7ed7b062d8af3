"""Flight-recorder dumps: which rank enqueued, started and completed which collective."""
