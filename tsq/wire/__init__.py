"""The wire format: bytes <-> messages (docs/reference/protocol.md). Knows no sockets, no clocks and no QUIC."""
