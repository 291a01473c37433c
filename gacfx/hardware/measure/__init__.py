"""What a machine really does: how long calls take on it, and how much memory it has left.

clock, timing, interleave   how one call, and calls in turn, are timed
device, machine, memory     what the machine is and says of itself
cases/                      single calls by their sizes, with floor and reference
parts/                      lists of cases that answer a question
run, journal                parts one after the other, each result on the disk at once

The only place of gacfx that touches ``torch.cuda``. It needs torch alone, so that a bare GPU
machine runs it from an uninstalled checkout.
"""
