"""Imported by the server that the processes of branches are forked from, and by no other process.

A SIGTERM to all processes of a run is meant for the main process. The server ignores it: without the server, nobody
would learn how a branch's process ended. Ctrl-C reaches it too, and multiprocessing ignores that once all is imported.
"""

import signal

from copd.system.processes import importing

ON_INTERRUPT = signal.signal(signal.SIGINT, signal.SIG_IGN)

with importing():
    from transformers.models.qwen3_vl import modeling_qwen3_vl as modeling_qwen3_vl
    from transformers.models.qwen3_vl import processing_qwen3_vl as processing_qwen3_vl

    from copd.assemble import branches as branches
    from copd.branches import processes as processes

signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, ON_INTERRUPT)
