"""All computation with times: timestamps -> Sample -> Estimate -> Selection -> ClockAction. Pure: no clock, no socket, no log.

From the top, each module uses only those after it: `adjustment`, `selection`, `weight`, `cluster`, `filter`, `ageing`,
`intersection`, `server_state`, `sample`, `local_clock`.
"""
