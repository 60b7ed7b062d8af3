"""Several nodes at once: which link or node is the odd one, and how the nodes differ. Pure."""
