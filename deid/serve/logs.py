"""Structured logs: one JSON object a line on standard error, and nothing of any picture.

A line has names, sizes and times. No query, file name or body is ever in one, and of the headers
only a request's id, if it is a plain word.
"""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}


class JsonLines(logging.Formatter):
    """What `extra` of a record adds becomes fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _OWN}
        if record.exc_info and record.exc_info[0] is not None:
            # Where it happened, not what it says: that may quote what was sent.
            last = traceback.extract_tb(record.exc_info[2])[-1:]
            line["error"] = record.exc_info[0].__name__
            line["at"] = "".join(f"{frame.filename}:{frame.lineno}" for frame in last)
        return json.dumps(line, default=str)


def to_standard_error() -> None:
    """All logs of this process, and only as such lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "deid"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("deid").setLevel(logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
