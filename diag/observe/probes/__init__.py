"""One probe a file. A probe looks (`collect`, impure, in a child with a deadline) and thinks (`judge`, pure)."""
