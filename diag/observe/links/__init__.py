"""What lies between nodes."""
