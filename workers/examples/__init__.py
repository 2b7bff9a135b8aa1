"""Worked examples: tasks of the kind that one's own would be, and an attack of one's own.

None is in a table; each is named by its import path, like `--task workers.examples.images:cnn`.
"""
