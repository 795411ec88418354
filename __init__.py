"""tileloom restores and generates images far larger than memory, tile by tile, exactly."""

__version__ = "0.1.0"
