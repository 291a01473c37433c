"""Plans for every budget at once."""
