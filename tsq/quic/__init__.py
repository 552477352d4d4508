"""UDP datagrams with timestamps <-> TSQ messages on QUIC connections. Never interprets a timestamp.

The only place that imports aioquic; and in it, only `internals` touches aioquic's private attributes.
"""
