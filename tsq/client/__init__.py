"""The client's role: requests out, samples in. Only `blocking`, `asynchronous` and `async_query` wait; `resolving` blocks.

From the top, each using only what comes after it: `asynchronous`, `async_query`, `blocking`, `host_query`, `polling`,
`association`, `attempt`, `resolving`, `network_errors`, `channel`, `exchange`, `result`.
"""
