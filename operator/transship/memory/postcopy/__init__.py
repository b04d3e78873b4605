"""Memory that follows after the resume: asked for by the target, pushed by the source."""
