"""One placement's life: which node, which order, which status.

`decide`, `status`, `scheduling`, `ownership`, `orders` and `steps` are pure; `effects`, `resolver`
and `reconciler` do what was decided.
"""
