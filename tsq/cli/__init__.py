"""The commands: arguments in, text out. Holds no rule of the protocol and none of time.

From the top, each using only what comes after it: `client`, `server`, `server_options`, `workers`, `adjtime`, `daemon`, `control`,
`audit`, `keygen`, `conformance`, `wait_sync`, `proofs`, `watch`, `parsers`, `common`, `numbers`, `start`, `running`, `streams`,
`lazy_imports`.
"""
