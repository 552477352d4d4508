"""What the draft says, and which of it holds for a server, as far as one can see from outside (docs/reference/conformance.md).

From the top, each using only what comes after it: `blocking`, `suite`, `connections`, `options`, `streams`, `datagrams`, `link`,
`judge`, `findings`, `statements`.
"""
