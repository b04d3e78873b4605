"""The process between runc and CRIU, so that a restore can begin before its images exist."""
