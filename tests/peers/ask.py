"""Asks a web server again and again, a connection each time, and says how long an answer took.

ADDRESS PORT SECONDS; prints JSON: n, errors, p50 and p99 in microseconds, the first error.
"""
import json, socket, sys, time

address, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
request = b"GET / HTTP/1.0\r\nHost: x\r\n\r\n"
took, errors, first = [], 0, None
end = time.monotonic() + seconds
while time.monotonic() < end:
    start = time.monotonic()
    try:
        with socket.create_connection((address, port), timeout=30) as s:
            s.sendall(request)
            answer = b""
            while part := s.recv(65536):
                answer += part
        if b" 200 OK\r\n" not in answer:
            raise OSError("answered %r" % answer[:60])
        took.append(time.monotonic() - start)
    except OSError as e:
        errors += 1
        first = first or str(e)
    # A customer, not a load: the server is idle in between.
    time.sleep(0.004)
took.sort()
at = lambda share: round(took[min(len(took) - 1, int(len(took) * share))] * 1e6) if took else 0
print(json.dumps({"n": len(took), "errors": errors, "p50": at(0.5), "p99": at(0.99), "first": first}))
