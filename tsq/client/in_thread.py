"""Calls that block, in threads of their own beside an event loop: what the system's resolver or a pipe may keep waiting.

Comes in: a function. Goes out: its result. A thread lives only as long as its call, and neither the end of the loop nor that of the
program waits for one that hangs. It must never take the place of a pool of threads: a call is rare.
"""

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


async def in_thread(call: Callable[Parameters, Result], *arguments: Parameters.args, **options: Parameters.kwargs) -> Result:
    """The result of this call, made in another thread; made here where there can be no other thread."""
    loop = asyncio.get_running_loop()
    context = contextvars.copy_context()
    future: asyncio.Future[Result] = loop.create_future()

    def give(result: Result | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, failure = None, None
        try:
            result = context.run(call, *arguments, **options)
        except BaseException as error:
            failure = error
        # The loop may have ended meanwhile.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(give, result, failure)

    try:
        threading.Thread(target=run, name=getattr(call, "__name__", "call"), daemon=True).start()
    except (RuntimeError, MemoryError):
        return call(*arguments, **options)
    return await future
