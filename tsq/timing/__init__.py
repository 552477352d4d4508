"""Timestamps -> Sample -> Estimate -> Selection -> ClockAction. Pure: no clock, no socket, no log.

From the top, each using only what comes after it: `adjustment`, `selection`, `cluster`, `filter`, `ageing`, `intersection`,
`server_state`, `sample`, `local_clock`.
"""
