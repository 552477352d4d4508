"""Types of the compiled records; see records.pyx."""

RECORD_SIZES: tuple[int, int]
BESIDE_SIZE: int
