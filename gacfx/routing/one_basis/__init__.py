"""PARSE as in the paper: picks among the pieces of one basis, by oracles and by trained masks."""
