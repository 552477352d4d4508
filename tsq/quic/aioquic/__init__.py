"""All code that uses aioquic's private names. Each name is listed in a table that is compared with the installed aioquic.

`hibernate` lets quiet connections rest, `offload` hands connections over to the data plane (`transfer`: what of them,
`shared_connection`: what both planes share, `offload_check`: whether that works), `internals` reads and sets single values, `trim`
saves work and memory, `http3` bounds HTTP/3.

From the top, each using only what comes after it: `hibernate`, `offload`, `shared_connection`, `transfer`, `offload_check`,
`http3`, `internals`, `trim`.
"""
