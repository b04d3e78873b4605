"""Logging by loguru: one line per change of state. Records of libraries go there too."""

from __future__ import annotations

import logging
import sys

from loguru import logger

FORMAT = "{time:YYYY-MM-DDTHH:mm:ss.SSSZZ} {level: <7} {message} {extra}"


class ToLoguru(logging.Handler):
    """Sends records of the standard library (kopf, aiohttp) to loguru, with kopf's object."""

    def emit(self, record: logging.LogRecord) -> None:
        ref = getattr(record, "k8s_ref", None) or {}
        bound = logger.bind(object=f"{ref.get('namespace')}/{ref.get('name')}") if ref else logger
        bound.opt(exception=record.exc_info).log(record.levelname, record.getMessage())


def configure(*, level: str = "INFO") -> None:
    """Log to standard error. Libraries log only WARNING and above, unless level is DEBUG."""
    logger.remove()
    # diagnose would print the values of variables, which can be secrets
    logger.add(sys.stderr, level=level, format=FORMAT, diagnose=False, backtrace=False)
    libraries = logging.DEBUG if level == "DEBUG" else logging.WARNING
    logging.basicConfig(handlers=[ToLoguru()], level=libraries, force=True)
