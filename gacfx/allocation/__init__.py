"""From curves to a plan, by plain functions: no model, no graph, no torch."""
