"""Certificates: a server's chain and key, the authorities that a client trusts, and the check of a chain. Knows nothing of QUIC.

From the top, each using only what comes after it: `credentials`, `chain`, `trust`, `rejections`, `purposes`, `names`, `der`, `pem`,
`reading`.
"""
