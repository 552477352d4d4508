"""Bytes <-> messages (docs/reference/protocol.md). Pure: no clock, no socket, no log.

From the top, each using only what comes after it: `signature`, `message`, `tlv`.
"""
