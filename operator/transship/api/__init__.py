"""The custom resources of the group transship.dev: pydantic models, conditions and reasons.

`crds/`, `docs/api.md` and the admission policy are generated from these models (`api/crd`). No
module here does input or output, and none knows how a resource is reconciled.
"""

GROUP = "transship.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
FINALIZER = "transship.dev/finalizer"
