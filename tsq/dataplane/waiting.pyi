"""Types of the compiled wait for events; see waiting.pyx."""

from tsq.dataplane.batches import DataPlane

def wait(epoll: int, serving: dict[int, DataPlane], timeout: float) -> list[tuple[int, int]]: ...
