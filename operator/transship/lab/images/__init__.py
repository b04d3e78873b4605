"""Container images without a registry or daemon: built with buildah, stored, pushed."""
