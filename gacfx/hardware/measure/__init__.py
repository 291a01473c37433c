"""What a machine really does: how long calls take on it, and how much memory it has left.

The only place of gacfx that touches ``torch.cuda``. It needs torch alone, so that a bare GPU
machine runs it from an uninstalled checkout.
"""
