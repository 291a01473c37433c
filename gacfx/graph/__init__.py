"""Everything fx: what a node is, notes, edits, printing, the pass protocol and pipelines."""
