"""`dev-tools` with its imports done: every call is a fork of this process. `warm.py SOCKET`.

A call is one line of JSON: argv, env, the files for what it prints, and a script where it is not the command itself.
The answer is its exit code; none where it was killed.
"""

import json
import os
import runpy
import signal
import socket
import sys
import traceback
from pathlib import Path

from devtools_platform.app import delivery, managed  # noqa: F401 - what calls need
from devtools_platform.cli.main import main


def serve(connection: socket.socket) -> None:
    asked = json.loads(connection.makefile().readline())
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.argv = [asked["script"] or "dev-tools", *asked["argv"]]
    for stream, file in ((1, asked["out"]), (2, asked["err"])):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    code: object = 0
    try:
        if asked["script"]:
            runpy.run_path(asked["script"], run_name="__main__")
        else:
            main()
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:  # noqa: BLE001 - the end of a process
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(str(code).encode())


server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1] + ".next")
server.listen(16)
Path(sys.argv[1] + ".next").rename(sys.argv[1])
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    caller, _ = server.accept()
    if os.fork() == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        server.close()
        serve(caller)
        os._exit(0)
    caller.close()
