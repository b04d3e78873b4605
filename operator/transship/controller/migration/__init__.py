"""One migration from its begin to its end, as the operator sees it.

`decide`, `status`, `preflight`, `cancellation`, `history` and `steps` are pure; `observe`,
`effects` and `reconciler` do the asking and the acting.
"""
