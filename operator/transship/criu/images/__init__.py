"""CRIU's image files: packed for the way, corrected where memory was hidden or moved ahead."""
