"""A TCP connection that lasts: random bytes for some seconds, and whether they arrived as they were sent.

stream.py serve              takes connections on port 7077 of both families; tells each the sum of what it sent
stream.py send ADDR SECONDS  prints "same BYTES GAP", GAP the longest time in ms between two answers on the way

A time between two answers counts only when one of the ends had to send something again meanwhile: then the connection
stood still (nothing is sent again before 200 ms), otherwise one of these two programs was not let run.
"""

import hashlib
import os
import socket
import struct
import sys
import threading
import time

PORT = 7077
PIECE = 32 * 1024


def sent_again(connection):
    # tcpi_total_retrans
    return struct.unpack_from("I", connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 100)[0]


def take(connection):
    total, again = hashlib.sha256(), 0
    while True:
        piece = b""
        while len(piece) < PIECE:
            more = connection.recv(PIECE - len(piece))
            if not more:
                connection.sendall(total.hexdigest().encode() + b"\n")
                connection.close()
                return
            piece += more
        total.update(piece)
        # Each piece is answered, so that a connection that stands still is seen by its sender.
        now = sent_again(connection)
        connection.sendall(b"." if now == again else b"!")
        again = now


def serve():
    listener = socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=take, args=(connection,), daemon=True).start()


def send(address, seconds):
    connection = socket.create_connection((address, PORT), timeout=30)
    total, length, gap = hashlib.sha256(), 0, 0.0
    last, passed, again = time.monotonic(), 0.0, sent_again(connection)
    end = last + seconds
    while time.monotonic() < end:
        piece = os.urandom(PIECE)
        total.update(piece)
        length += len(piece)
        connection.sendall(piece)
        answer = connection.recv(1)
        assert answer in (b".", b"!"), "the connection broke"
        now, more = time.monotonic(), sent_again(connection)
        # The other end had sent its last answer but one again, or this one its piece.
        if answer == b"!":
            gap = max(gap, passed)
        if answer == b"!" or more != again:
            gap = max(gap, now - last)
        last, passed, again = now, now - last, more
        time.sleep(0.002)
    connection.shutdown(socket.SHUT_WR)
    there = b""
    while not there.endswith(b"\n"):
        more = connection.recv(100)
        assert more, "no sum came back"
        there += more
    word = "same" if there.strip().decode() == total.hexdigest() else "DIFFERENT"
    print(f"{word} {length} {gap * 1000:.0f}")


if sys.argv[1] == "serve":
    serve()
else:
    send(sys.argv[2], float(sys.argv[3]))
