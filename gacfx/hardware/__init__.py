"""What is known of a GPU: which kernel a matmul or attention call gets, and how long it takes.

``profile`` reads what is known of one GPU with one software stack; ``sdpa`` and ``gemm`` are the
dispatch rules; ``predict`` asks the right one; ``latency`` turns the answer into microseconds.
Standard library only, so it works on a machine without torch, GPU or CUDA build; ``measure`` alone
asks the machine itself, and needs torch.
"""
