"""Work shared by several devices."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["in_order", "interleaved"]

T = TypeVar("T")
R = TypeVar("R")


def in_order(
    work: Iterable[T], devices: Sequence[torch.device], do: Callable[[torch.device, T], R]
) -> Iterator[R]:
    """Do pieces of work on whichever device is free; results come in the order of the work.

    One device works in the calling thread. Closing the iterator waits for the pieces on
    their way; no thread is left behind.
    """
    if len(devices) == 1:
        for piece in work:
            yield do(devices[0], piece)
        return
    free: queue.SimpleQueue[torch.device] = queue.SimpleQueue()
    for device in devices:
        free.put(device)

    def one(piece: T) -> R:
        device = free.get()
        try:
            return do(device, piece)
        finally:
            free.put(device)

    pool = ThreadPoolExecutor(len(devices), thread_name_prefix="attention3d-device")
    waiting: deque[Future[R]] = deque()
    try:
        for piece in work:
            waiting.append(pool.submit(one, piece))
            if len(waiting) > 2 * len(devices):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def interleaved(
    work: Sequence[T],
    devices: Sequence[torch.device],
    do: Callable[[torch.device, T], Iterator[R]],
) -> Iterator[R]:
    """Iterate over all that the pieces of work yield, each piece on a device, in any order.

    One device takes piece after piece in the calling thread. Closing the iterator ends
    every piece at its next step; no thread is left behind.
    """
    if len(devices) == 1:
        for piece in work:
            yield from do(devices[0], piece)
        return
    pieces: queue.SimpleQueue[T] = queue.SimpleQueue()
    for piece in work:
        pieces.put(piece)
    found: queue.Queue[R | BaseException | None] = queue.Queue(2 * len(devices))
    stop = threading.Event()

    def put(item: R | BaseException | None) -> None:
        while not stop.is_set():
            try:
                found.put(item, timeout=0.05)
                return
            except queue.Full:
                continue

    def run(device: torch.device) -> None:
        try:
            while not stop.is_set():
                try:
                    piece = pieces.get_nowait()
                except queue.Empty:
                    break
                for item in do(device, piece):
                    put(item)
                    if stop.is_set():
                        break
            put(None)
        except BaseException as error:  # handed to the thread that iterates
            put(error)

    threads = [
        threading.Thread(target=run, args=(d,), name=f"attention3d-device-{i}", daemon=True)
        for i, d in enumerate(devices)
    ]
    for thread in threads:
        thread.start()
    try:
        left = len(threads)
        while left:
            item = found.get()
            if item is None:
                left -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
    finally:
        stop.set()
        for thread in threads:
            thread.join()
