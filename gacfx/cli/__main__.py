"""``python -m gacfx.cli``."""

import sys

from gacfx.cli import main

sys.exit(main())
