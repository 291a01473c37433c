"""Which sizes of a captured model belong together: an abstract interpreter over axis terms."""
