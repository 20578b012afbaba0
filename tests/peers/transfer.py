"""Moves bytes and says whether they arrived as they left.

serve HOST-OR-::         a server on port 7002
up|down ADDRESS BYTES    a client; prints "same" or what differs, and the seconds it took
"""
import hashlib, os, socket, struct, sys, threading, time

def read_exactly(s, n):
    parts = []
    while n:
        part = s.recv(min(n, 1 << 20))
        if not part:
            raise EOFError("%d bytes short" % n)
        parts.append(part)
        n -= len(part)
    return b"".join(parts)

def answer(s):
    try:
        s.settimeout(60)
        verb, length = struct.unpack("!cQ", read_exactly(s, 9))
        if verb == b"u":
            s.sendall(hashlib.sha256(read_exactly(s, length)).digest())
        else:
            data = os.urandom(length)
            s.sendall(data + hashlib.sha256(data).digest())
    except (OSError, EOFError):
        pass
    s.close()

def serve():
    listener = socket.create_server(("::", 7002), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
    print("listening", flush=True)
    while True:
        s, _ = listener.accept()
        threading.Thread(target=answer, args=(s,), daemon=True).start()

def client(verb, address, length):
    start = time.monotonic()
    for attempt in range(300):
        try:
            s = socket.create_connection((address, 7002), timeout=60)
            break
        except ConnectionRefusedError:
            # The server's service was only just started.
            time.sleep(0.1)
            start = time.monotonic()
    data = os.urandom(length)
    start = time.monotonic()
    s.sendall(struct.pack("!cQ", verb[:1].encode(), length))
    if verb == "up":
        s.sendall(data)
    else:
        data = read_exactly(s, length)
    digest = read_exactly(s, 32)
    seconds = time.monotonic() - start
    print("same" if digest == hashlib.sha256(data).digest() else "different", "%.3f" % seconds)

if sys.argv[1] == "serve":
    serve()
else:
    client(sys.argv[1], sys.argv[2], int(sys.argv[3]))
