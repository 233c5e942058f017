"""A coordinator and four analysts review the standard library of the running Python, over agentbus.

``make demo`` runs it. The way of a file: `coordinator` publishes a task per file, an `analyst` process takes
it, `review` measures it, the analyst publishes what it found, the coordinator puts it on `records`, and
`summary` tells the whole. On the way one analyst is killed and one is stopped.
"""
