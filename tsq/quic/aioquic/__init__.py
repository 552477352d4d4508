"""All code that uses aioquic's private names. Each name is listed in a table that is compared with the installed aioquic.

`offload` hands connections over to the data plane, `internals` reads and sets single values, `trim` saves work and memory.

From the top, each using only what comes after it: `offload`, `internals`, `trim`.
"""
