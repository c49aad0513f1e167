"""A worker process: reads (function, task) from its standard input, writes results to its standard output.

Both ends are processes of one run of ours, so messages may be pickled.
"""

from __future__ import annotations

import gc
import os
import pickle
import queue
import signal
import struct
import sys
import threading
import traceback
from typing import IO, Any

_SIZE = struct.Struct("<Q")


def write_message(stream: IO[bytes], message: Any) -> None:
    content = pickle.dumps(message)
    stream.write(_SIZE.pack(len(content)) + content)
    stream.flush()


def read_message(stream: IO[bytes]) -> Any:
    """Raises EOFError when the other side is gone."""
    head = stream.read(_SIZE.size)
    if len(head) < _SIZE.size:
        raise EOFError
    (size,) = _SIZE.unpack(head)
    content = stream.read(size)
    if len(content) < size:
        raise EOFError
    return pickle.loads(content)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not end up among the replies
    gc.set_threshold(100_000, 20, 100)  # documents are many objects and no cycles: looking for some took 6% of the time
    import pyarrow as pa

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    from lmcraft.corpus.engine.advance import heard_by

    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    with heard_by(lambda amount: write_message(replies, ("advance", amount))):
        while True:
            function, task = requests.get()
            try:
                reply = ("result", function(*task))
            except Exception as error:
                reply = ("error", _portable(error))
            write_message(replies, reply)


def _listen(requests: queue.SimpleQueue[Any]) -> None:
    """Hand on what the parent asks for; when the parent is gone, so is this process, in the middle of its work.

    (Linux could kill it by itself, but at the end of the *thread* that started it.)
    """
    try:
        while True:
            requests.put(read_message(sys.stdin.buffer))
    except BaseException as error:
        if not isinstance(error, EOFError):
            traceback.print_exc()
        os._exit(1)


def _portable(error: Exception) -> Exception:
    """The error itself where it can travel, with the worker's traceback as a note."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error


if __name__ == "__main__":
    main()
