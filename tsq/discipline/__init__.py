"""Keeping a clock: what samples of several sources say about it, and what to do with it. Without I/O.

From the top: `recording`, `machine`, `operators`, `restarts`, `foreign`, `tracking`, `control`, `updates`, `agreement`, `jumps`,
`oscillator`, `source_table`, `choice`, `source`, `moves`, `limits`, `leap`, `polling`, `steering`, `fusion`, `bound`, `context`,
`actions`, `events`, `status`, `settings`, `estimator`, `route`, `model`, `normal`.
"""
