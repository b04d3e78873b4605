"""`transship doctor`: compares specs, status and agents, and reports what is wrong.

`command` reads, the other modules judge: they are pure. Nothing here changes anything.
"""
