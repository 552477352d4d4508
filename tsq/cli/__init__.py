"""Command lines: arguments in, text out. No logic of the protocol or of time lives here."""
