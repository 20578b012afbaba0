"""A host: talks to the server from fixed source ports, so that the 5-tuples of all hosts are identical.

Arguments: mark, address, rounds. Prints every answer on a line of its own; broadcasts and multicasts are sent and
not waited for.
"""
import socket, struct, sys, time

mark, address, rounds = sys.argv[1].encode(), sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
own = "::" if family == socket.AF_INET6 else "0.0.0.0"

for n in range(rounds):
    for attempt in range(300):
        s = socket.socket(family, socket.SOCK_STREAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Close with a reset: the same 5-tuple is used again at once.
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.settimeout(20)
        s.bind((own, 40000))
        try:
            s.connect((address, 7000))
            break
        except OSError as e:
            # The tenant's echo may not listen yet.
            s.close()
            if attempt == 299:
                raise
            time.sleep(0.1)
    s.sendall(mark + b" tcp %d" % n)
    print("tcp", s.recv(4096).decode())
    s.close()

s = socket.socket(family, socket.SOCK_DGRAM)
s.settimeout(1)
s.bind((own, 40001))
for n in range(rounds):
    for attempt in range(20):
        s.sendto(mark + b" udp %d" % n, (address, 7001))
        try:
            print("udp", s.recv(65535).decode())
            break
        except TimeoutError:
            if attempt == 19:
                raise

s = socket.socket(family, socket.SOCK_DGRAM)
s.bind((own, 40002))
if family == socket.AF_INET:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("192.168.1.10"))
    targets = [("192.168.1.255", 7001), ("255.255.255.255", 7001), ("224.0.0.1", 7001), ("239.1.2.3", 7001)]
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
else:
    index = socket.if_nametoindex("eth0")
    targets = [("ff02::1", 7001, 0, index), ("ff05::1:3", 7001, 0, index)]
for n in range(rounds):
    for target in targets:
        s.sendto(mark + b" many %d" % n, target)
