"""Single calls to measure: a matmul, an attention, each with its floor and a float64 reference."""
