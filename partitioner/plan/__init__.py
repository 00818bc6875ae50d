"""Where to cut: the split problem, its exact solution, and the methods it is compared with."""
