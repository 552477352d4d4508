"""The client's role: requests out, samples in. The lower modules do no I/O; `blocking` and `asynchronous` drive them.

From the top, each using only what comes after it: `asynchronous`, `blocking`, `polling`, `association`, `attempt`, `channel`,
`exchange`, `result`.
"""
