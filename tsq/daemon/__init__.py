"""The daemon that keeps a clock, or feeds the program that keeps it: sockets, files and timers around `tsq.discipline`.

From the top: `daemon`, `outlets`, `boot`, `sources`, `look_ups`, `source_list`, `source`, `pool`, `network_state`, `feeds`,
`reload`, `config_file`, `description`, `unknown_keys`, `keys`, `toml_lines`, `control`, `control_client`, `control_protocol`,
`action_log`, `memory_care`, `measurements_log`, `metrics`, `recorder`, `replay`, `config`.
"""
