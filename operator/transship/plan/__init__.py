"""The pure decisions: from what was observed to the one next step, and to the status that says so.

No input or output here, no clock, no memory of earlier passes: the operator can be killed between
any two steps and goes on from what it observes next.
"""
