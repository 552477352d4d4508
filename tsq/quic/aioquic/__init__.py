"""All that touches aioquic's private attributes, each listed in a table that is compared with the installed aioquic.

From the top, each using only what comes after it: `offload`, `internals`, `trim`.
"""
