"""The compiled data plane: answers the packets of established connections, without the interpreter for a packet.

From the top, each using only what comes after it: `loop`, `waiting`, `batches`, `upkeep`, `sessions`, `stamps`, `answers`,
`admission`, `tokens`, `prefixes`, `pressure`, `initials`, `digests`, `cache`, `records`, `services`, `derivation`, `table`,
`session`, `recovery`, `frames`, `state`, `packet`, `aesgcm`.
"""
