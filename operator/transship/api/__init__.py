"""The resources of group transship.dev: pydantic models, the one source of crds/*.yaml.

No input or output here, and nothing that knows how a resource is acted upon.
"""

GROUP = "transship.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
FINALIZER = "transship.dev/finalizer"
