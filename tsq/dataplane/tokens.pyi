"""Types of the compiled address validation tokens; see tokens.pyx."""

RETRY_TOKEN_LIFETIME: float
NEW_TOKEN_LIFETIME: float
