"""A look into a queue at once, when this process has just put something there.

The library polls and has no notification, so work that is queued and taken on the same host would wait half a poll, for
each agent's run anew. Other workers go on polling: whoever looks first takes it, by the library's own claim.
"""

import logging
import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

from dbos import DBOS
from dbos._queue import queue_worker_thread

log = logging.getLogger(__name__)


class Poller:
    """Looks are made one after the other in a thread of their own, and one that waits stands for all of its queue."""

    def __init__(self, dbos: DBOS, queues: Collection[str]) -> None:
        self._dbos = dbos
        self._queues = queues
        self._waiting: set[str] = set()
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="queue-look")

    def look(self, queue: str) -> None:
        """Returns at once, from any thread. A queue that this worker does not serve is left to those who do."""
        with self._lock:
            if queue not in self._queues or queue in self._waiting:
                return
            self._waiting.add(queue)
            self._threads.submit(self._poll, queue)

    def close(self) -> None:
        """No look begins any more; the one that is being made is waited for."""
        with self._lock:
            self._queues = ()
        self._threads.shutdown(cancel_futures=True)

    def _poll(self, queue: str) -> None:
        with self._lock:
            self._waiting.discard(queue)  # what is put there from now on may need another look
        try:
            if (found := self._dbos._sys_db.get_queue(queue)) is not None:  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
                queue_worker_thread(_Once(), self._dbos, found)
        except Exception as error:  # noqa: BLE001 - the library's own poll comes in any case, and says what is wrong
            log.debug("a look into the queue %s failed: %s", queue, error)


class _Once(threading.Event):
    """The library's worker of a queue waits, polls, and waits again: the first wait is over at once, the second is
    its end."""

    def __init__(self) -> None:
        super().__init__()
        self._has_polled = False

    def wait(self, timeout: float | None = None) -> bool:
        is_over, self._has_polled = self._has_polled, True
        return is_over
