"""The release of a failed call's memory.

An error refers to the frames that it passed, whose variables hold the request. Where one of them refers to the error in
turn, as an object does that keeps a fault for later, the cycle holds the request until the garbage collector runs.
"""

import traceback


class FrameRelease:
    """A context that empties the frames of an error that leaves it. The error keeps its text and its line numbers."""

    __slots__ = ()

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        while error is not None:
            traceback.clear_frames(error.__traceback__)
            error = error.__context__


FRAME_RELEASE = FrameRelease()
