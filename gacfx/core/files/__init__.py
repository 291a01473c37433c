"""Files: written whole or not at all, checked before the work, read with bounds."""
