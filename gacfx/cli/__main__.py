"""``python -m gacfx.cli``, the same as ``python -m gacfx``."""

import sys

from gacfx.cli import main

sys.exit(main())
