"""Results as text, JSON and pictures. Prints nothing.

From the top, each using only what comes after it: `chart`, `document`, `text`, `replay`, `control`, `audit`, `conformance`,
`claims`, `spans`, `plain`.
"""
