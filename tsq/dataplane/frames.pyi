"""Types of the estimate of a packet's work; see frames.pyx."""

MOST_WORK_PER_PACKET: int

def work(frames: bytes) -> int: ...
