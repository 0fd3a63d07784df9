"""Does a backend keep the worker contract? The quick part of the tests, for those who write a backend.

    worker.py    plays the supervisor for one worker
    wire.py      an HTTP/1.1 client that sees every byte
    stage.py     where checks run, and what they find
    http.py      requests and answers      facts.py     what the app is told
    leaving.py   starting and stopping     smuggling.py   requests that mean two things
    websocket.py
    suite.py     all of them
    served/      the app that they are run with, in the backend's own interpreter

`trapeze backends --test NAME` runs it against any installed backend, and our own tests against all of ours.
"""

from __future__ import annotations
