"""A tenant's service: answers TCP on 7000 and UDP on 7001 with its own mark and what it was sent."""
import socket, sys, threading

mark = sys.argv[1].encode()

def tcp():
    s = socket.create_server(("::", 7000), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
    while True:
        c, _ = s.accept()
        try:
            c.settimeout(30)
            c.sendall(mark + b" " + c.recv(4096))
        except OSError:
            pass
        c.close()

def udp():
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    s.bind(("::", 7001))
    while True:
        data, peer = s.recvfrom(65535)
        try:
            s.sendto(mark + b" " + data, peer)
        except OSError:
            pass

threading.Thread(target=udp, daemon=True).start()
tcp()
