"""Certificates: who is trusted, whether a chain is accepted, and why it is not. Knows nothing of QUIC.

From the top, each using only what comes after it: `credentials`, `chain`, `trust`, `rejections`, `purposes`, `names`, `der`,
`pem`, `reading`.
"""
