"""This machine: its clock, its files, what it is short of. Never reached from `wire/` or `timing/`.

From the top, each using only what comes after it: `who_steers`, `keepers`, `clock`, `drift_file`, `leap_table`, `segment`,
`clockbound`, `saved_time`, `files`, `lock`, `processes`, `privileges`, `systemd`, `identity`, `journal`, `shortage`, `_clock`,
`_privileges`, `_segment`, `_memory`.
"""
