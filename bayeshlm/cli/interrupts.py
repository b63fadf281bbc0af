"""Ctrl-C: noted every time, raised where raising is safe, and never lost or printed by a library.

Python runs the handler of a signal between any two steps of Python code. Some steps are called from C that cannot pass
an exception on: a compiled module (SciPy's are Cython) that is being imported, a finaliser, a callback. There Python
prints "Exception ignored in ..." with a traceback, and goes on as if nobody had pressed anything.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ExtensionFileLoader
from types import FrameType
from typing import Any

RETRY = 0.02  # seconds until an interrupt that came at a bad moment is tried again
LOADING = {ExtensionFileLoader.create_module.__code__, ExtensionFileLoader.exec_module.__code__}


@contextmanager
def interrupts_counted(signals: list[int]) -> Iterator[None]:
    """Note every Ctrl-C, since not every library lets the KeyboardInterrupt through."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    main, lock, over = threading.get_ident(), threading.Lock(), threading.Event()

    def again() -> None:
        with lock:
            if over.is_set():
                return
            if hasattr(signal, "pthread_kill"):
                signal.pthread_kill(main, signal.SIGINT)  # wakes it, too, where it waits
            else:  # Windows
                _thread.interrupt_main(signal.SIGINT)

    def later() -> None:
        timer = threading.Timer(RETRY, again)
        timer.daemon = True
        timer.start()

    def note(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        if in_extension_import(frame):
            later()
        else:
            raise KeyboardInterrupt

    def ignored(unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            later()
        else:
            shown(unraisable)

    previous, shown = signal.signal(signal.SIGINT, note), sys.unraisablehook
    sys.unraisablehook = ignored
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, lambda number, _frame: signals.append(number))
        with lock:
            over.set()
        sys.unraisablehook = shown
        signal.signal(signal.SIGINT, previous)


def in_extension_import(frame: FrameType | None) -> bool:
    """Whether a compiled module is being imported: its own C code stands between its loader's frame and this one."""
    while frame is not None:
        if frame.f_code in LOADING:
            return True
        frame = frame.f_back
    return False
