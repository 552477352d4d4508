"""A server's pages: health, metrics, status, and the clock page for browsers. Loaded only where they are served.

From the top, each using only what comes after it: `site`, `browser`, `status`, `drawing`, `units`, `history`, `health`, `access`.
"""
