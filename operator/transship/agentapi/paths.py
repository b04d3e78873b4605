"""The paths of an agent's HTTP API. PUT and DELETE can be repeated; GET changes nothing."""

PORT = 7443
"""HTTPS, mutual TLS: the operator and the other agents."""

STREAM_PORT = 7444
"""Raw streams between agents over mutual TLS: files, later memory (see streams.connection)."""

NODE = "/v1/node"
METRICS = "/metrics"
CONTAINERS = "/v1/containers"
CONTAINER = "/v1/containers/{id}"
"""PUT ContainerOrder (202, at once), GET ContainerReport, DELETE ?epoch=N (202, then 204)."""
PREDICTION = "/v1/containers/{id}/forecast"
"""POST PredictionRequest: what a move would be like, without moving anything; PredictionReply."""
LOGS = "/v1/containers/{id}/logs"
"""GET ?follow=true ?tail=N ?since=RFC3339 ?timestamps=true: plain text."""

OUTGOING = "/v1/outgoing/{migration}"
"""The source's half. PUT OutgoingOrder begins, GET MigrationReport, DELETE forgets its end."""
OUTGOING_ABORT = "/v1/outgoing/{migration}/abort"
"""POST ?container=ID: cancel up to the release; the reply's verdict says which of the two it was.

A migration that has not begun here is never going to: its order may still be under way."""
OUTGOING_VERDICT = "/v1/outgoing/{migration}/verdict"
"""GET VerdictReply: what the source's record says; a target that waits requests it, too."""

INCOMING = "/v1/incoming/{migration}"
"""The target's half. PUT IncomingOrder prepares, GET MigrationReport, DELETE forgets its end."""
INCOMING_ABORT = "/v1/incoming/{migration}/abort"
"""POST: discard what was prepared; refused once the target runs."""
INCOMING_MEMORY = "/v1/incoming/{migration}/memory"
"""POST by the source: get ready for the coming dump's memory; the reply is MemoryEndpoint.

GET by the source whose memory follows: MemoryState.

DELETE by the operator: what is still to come will never come; ends the copy that waits for it."""
INCOMING_HOLD = "/v1/incoming/{migration}/hold"
"""POST by the source: from now on queue the packets that are diverted here."""
INCOMING_RESTORE = "/v1/incoming/{migration}/restore"
"""POST by the source, body: tar of CRIU's small images. Restores, held; RestoreReply."""
RESTORE_HEADER = "Transship-Restore"
"""The header of a restore request that carries its RestoreRequest as JSON."""
INCOMING_VERDICT = "/v1/incoming/{migration}/verdict"
"""POST VerdictNotice by the source, or by the operator that relays it; the reply is ResumeReply."""
