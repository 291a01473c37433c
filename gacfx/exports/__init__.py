"""Exports: a model as files that other programs run, without gacfx."""
