"""The tables of the GAC papers, made again by commands, on shapes and on a model at hand."""
