"""Clock daemons, and what they report of the clock's quality. Changes nothing.

From the top, each using only what comes after it: `sync_state`, `owner`, `chrony`, `tsqd`, `ntpd_rs`.
"""
