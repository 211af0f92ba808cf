"""Where automatic differentiation is numerically wrong: two programs of one network that differ only in the derivative
chosen at ties (arXiv 2401.02736)."""
