"""Setting the clock once. Never acts on a measurement that was not finished.

From the top, each using only what comes after it: `chain`, `bootstrap`, `adjtime`, `slew_check`.
"""
