"""This machine: its clock, its files, what it is short of. Never reached from `wire/` or `timing/`.

From the top, each using only what comes after it: `keepers`, `clock`, `saved_time`, `files`, `lock`, `identity`, `journal`,
`shortage`, `_clock`, `_memory`.
"""
