"""Compressors: weight and statistics -> factors at any rank, and the loss curve of all ranks."""
