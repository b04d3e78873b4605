"""Container images: built with buildah without a daemon, stored in the cache, pushed to a registry.

The folders are the sample images. Their programs run in containers and import nothing from here.
"""
