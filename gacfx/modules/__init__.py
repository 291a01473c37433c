"""The modules that a plan puts in place of dense ones, and how they get there."""
