"""The messages of the protocol, from and to bytes (docs/reference/protocol.md). Pure: no clock, no socket, no log.

From the top, each module uses only those after it: `keys`, `annotations`, `signature`, `message`, `tlv`.
"""
