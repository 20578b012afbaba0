"""A service manager as far as sd_notify(3) and sd_listen_fds(3) go, and no further.

manager.py [--abstract] [--watchdog USEC] [--listen PATH]... [--names A:B] -- PROGRAM ARGUMENT...

Starts the program and prints what it is told, a line each: the time in seconds and the message, its lines joined by
" | ". Signals to this process are for the tests to send to the program itself, whose id is the first line. Ends with the
program and prints how it ended.
"""

import os
import select
import socket
import sys
import time

words = sys.argv[1:]
command = words[words.index("--") + 1 :]
words = words[: words.index("--")]
listen = [words[at + 1] for at, word in enumerate(words) if word == "--listen"]


def value(name):
    return words[words.index(name) + 1] if name in words else None


path = f"/run/lab/manager-{os.getpid()}"
told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
if "--abstract" in words:
    told.bind("\0" + path)
    address = "@" + path
else:
    told.bind(path)
    address = path

listeners = []
for place in listen:
    os.makedirs(os.path.dirname(place), exist_ok=True)
    if os.path.exists(place):
        os.unlink(place)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(place)
    os.chmod(place, 0o660)
    listener.listen(64)
    listeners.append(listener)


def start():
    child = os.fork()
    if child:
        return child
    os.environ["NOTIFY_SOCKET"] = address
    if value("--watchdog"):
        os.environ["WATCHDOG_USEC"] = value("--watchdog")
        os.environ["WATCHDOG_PID"] = str(os.getpid())
    if listeners:
        # Out of the way first: 3 and up may be taken by these very sockets.
        high = [os.dup(listener.fileno()) for listener in listeners]
        for at, descriptor in enumerate(high):
            os.dup2(descriptor, 3 + at, inheritable=True)
        os.environ["LISTEN_FDS"] = str(len(high))
        os.environ["LISTEN_PID"] = str(os.getpid())
        if value("--names"):
            os.environ["LISTEN_FDNAMES"] = value("--names")
    os.execvp(command[0], command)


def say(text):
    print(f"{time.monotonic():.3f} {text}", flush=True)


# Again as long as the file is there: the program is exchanged, the sockets stay.
while True:
    child = start()
    say(f"pid {child}")
    # How it ended, once it has: what it said before is told first.
    status = None
    while True:
        ready, _, _ = select.select([told], [], [], 0.05)
        if ready:
            say(told.recv(4096).decode().strip().replace("\n", " | "))
        if status is None:
            ended, code = os.waitpid(child, os.WNOHANG)
            status = code if ended else None
        if status is not None and not select.select([told], [], [], 0)[0]:
            say(f"ended {os.waitstatus_to_exitcode(status)}")
            break
    if not os.path.exists("/run/lab/manager-again"):
        break
