"""The commands: arguments in, text out. Holds no rule of the protocol and none of time.

From the top, each using only what comes after it: `client`, `server`, `workers`, `adjtime`, `daemon`, `control`, `audit`, `keygen`,
`wait_sync`, `proofs`, `watch`, `parsers`, `common`, `numbers`, `start`, `streams`, `lazy_imports`.
"""
