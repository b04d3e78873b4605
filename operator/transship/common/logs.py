"""Logging: loguru everywhere, one line per change of state; library records join it."""

from __future__ import annotations

import logging
import sys

from loguru import logger

FORMAT = "{time:YYYY-MM-DDTHH:mm:ss.SSSZZ} {level: <7} {message} {extra}"


class ToLoguru(logging.Handler):
    """Send standard-library records (kopf's, aiohttp's) through loguru, keeping their object."""

    def emit(self, record: logging.LogRecord) -> None:
        ref = getattr(record, "k8s_ref", None) or {}
        bound = logger.bind(object=f"{ref.get('namespace')}/{ref.get('name')}") if ref else logger
        bound.opt(exception=record.exc_info).log(record.levelname, record.getMessage())


def configure(*, level: str = "INFO") -> None:
    """Log to standard error, and nothing of the libraries below WARNING unless level is DEBUG."""
    logger.remove()
    # diagnose prints the values of variables, secrets among them
    logger.add(sys.stderr, level=level, format=FORMAT, diagnose=False, backtrace=False)
    libraries = logging.DEBUG if level == "DEBUG" else logging.WARNING
    logging.basicConfig(handlers=[ToLoguru()], level=libraries, force=True)
