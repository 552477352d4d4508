"""The programs that keep this machine's clock, and how good they report it to be. Changes nothing.

From the top, each using only what comes after it: `sync_state`, `owner`, `chrony`, `ntpd_rs`.
"""
