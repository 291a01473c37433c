"""Plans as an integer program for CBC or HiGHS, for limits and rules of any number."""
