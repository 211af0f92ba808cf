"""Can I trust the gradient? Measuring the numerical reliability of nonsmooth automatic differentiation."""
