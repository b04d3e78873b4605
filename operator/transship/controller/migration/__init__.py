"""One migration from its creation to its end, on the operator's side.

`observe` asks the agents, `decide` chooses the next step from that, `effects` carries it out and
`reconciler` is the loop. `decide` with `before_release` and `after_release`, `status`, `preflight`,
`cancellation`, `history` and `steps` are pure: they do no input or output.
"""
