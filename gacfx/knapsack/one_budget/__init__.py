"""Plans under one budget: the exact core solver, from relaxation to search."""
