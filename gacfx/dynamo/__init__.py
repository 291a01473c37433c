"""The torch.compile door: plans tried inside compiled graphs, reports of what these really call."""
