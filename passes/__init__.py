"""The verbs: one torch.fx pass per file. Import as ``gacfx.passes``, never as ``passes``."""

if __name__ != "gacfx.passes":
    raise ImportError("import these passes as gacfx.passes; as 'passes' they would load twice")
