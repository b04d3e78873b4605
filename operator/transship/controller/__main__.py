"""Run the operator: python -m transship.controller."""

from __future__ import annotations

import sys

from transship.controller.app import main

sys.exit(main())
