"""From the models to what Kubernetes and people read: the definitions in crds/ and docs/api.md.

The only modules of `api` that touch files; nothing at run time imports them.
"""
