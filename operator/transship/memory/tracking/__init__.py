"""Which pages have changed since they were sent: by the kernel's record, or by digests."""
