"""The methods of the two GAC papers, as baselines."""
