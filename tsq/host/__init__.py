"""This machine: its clock, its files, what it is short of. Never reached from `wire/` or `timing/`.

From the top, each using only what comes after it: `who_steers`, `keepers`, `clock`, `clock_readings`, `timex`, `drift_file`,
`leap_table`, `segment`, `clockbound`, `saved_time`, `audit_file`, `key_files`, `files`, `step_notice`, `lock`, `memory_use`,
`processes`, `sandbox`, `privileges`, `reuseport`, `cores`, `systemd`, `identity`, `journal`, `memory`, `shortage`, `no_clock`,
`_clock`, `_privileges`, `_sandbox`, `_step_notice`, `_segment`, `_memory`.
"""
