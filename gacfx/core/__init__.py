"""The nouns: sites, dims, tiers, statistics, curves, plans, notes, passes and pipelines."""
