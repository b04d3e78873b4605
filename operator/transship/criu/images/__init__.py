"""CRIU's image files: packing them for the transfer, and correcting those about memory."""
