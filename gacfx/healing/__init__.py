"""Healing: what is left of a compressed model learns again what the dense one predicts.

healed = gacfx.heal("small", against="MODEL", calibration="texts.jsonl")
gacfx.save(healed, "healed")

settings     how much text and time, which rates
source       the checkpoint, the dense model, and whether they belong together
trainable    which parameters learn, and how they get back into the checkpoint
adapters     the same through LoRA
divergence   KL(dense || model) with its slopes, a few positions at a time
schedule     how many steps fit into the time, and which windows each of them reads
steps        one training, from step to step
training     the learning rate, the training, and the best that was seen
door         all of it, from folders to a healed model
"""
