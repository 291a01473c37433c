"""What would a GPU do with Llama-3-8B, and with a rank of 1107? No weights, no GPU, no network."""

import gacfx
from gacfx.hardware.gemm import matmul_tier
from gacfx.hardware.profile import load


def main() -> None:
    """Print tiers of the dense model, then of two ranks of one weight."""
    seen = gacfx.inspect("llama-3-8b", gpu="h200", seq=1024)
    for row in seen.folded():
        print(f"{row.layers:5} {row.name:18} {row.sizes:22} tier {row.tier} {row.kernel}")
    h200 = load("h200")
    for rank in (1107, 1112):
        tier = matmul_tier(1024, 4096, rank, "bf16", h200)
        print(f"down-projection to rank {rank}: tier {tier.tier} {tier.kernel} {tier.reason}")


if __name__ == "__main__":
    main()
