"""What a tenant does to harm its neighbours, bounded in size and time, whether a limit holds it or not.

memory|processes|disk|packets SECONDS [ADDRESS]; prints how far it came.
"""
import errno, os, resource, signal, socket, sys, time

verb, seconds = sys.argv[1], float(sys.argv[2])
end = time.monotonic() + seconds

def memory():
    # Never more than 400 MB, of a process that gives up by itself; a child, so that its end can be told.
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    kills = most = 0
    while time.monotonic() < end:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            blocks = []
            for n in range(100):
                blocks.append(bytearray(os.urandom(4096)) * 1024)
                os.write(write, b"x")
            os._exit(0)
        os.close(write)
        got = 0
        while part := os.read(read, 4096):
            got += len(part)
        os.close(read)
        _, status = os.waitpid(child, 0)
        kills += os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        most = max(most, 4 * got)
    print("killed", kills, "most", most)

def processes():
    # Never more than 3000 children; each ends by itself.
    refused, children = 0, []
    while time.monotonic() < end:
        try:
            child = os.fork() if len(children) < 3000 else None
        except OSError as e:
            assert e.errno == errno.EAGAIN, e
            refused += 1
            child = None
        if child == 0:
            while time.monotonic() < end:
                pass
            os._exit(0)
        if child is None:
            time.sleep(0.001)
        else:
            children.append(child)
    for child in children:
        os.waitpid(child, 0)
    print("refused", refused, "most", len(children))

def disk():
    # Never more than 300 MB, then again from the beginning.
    block, full, most = os.urandom(1 << 20), 0, 0
    while time.monotonic() < end:
        try:
            with open("/root/filler", "wb", buffering=0) as file:
                for n in range(300):
                    file.write(block)
                    most = max(most, n + 1)
                    if time.monotonic() > end:
                        break
        except OSError as e:
            assert e.errno in (errno.ENOSPC, errno.EDQUOT), e
            full += 1
            time.sleep(0.05)
    os.unlink("/root/filler")
    print("full", full, "most", most)

def packets():
    address = sys.argv[3]
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    s.setblocking(False)
    sent = 0
    while time.monotonic() < end:
        for _ in range(64):
            try:
                s.sendto(bytes(18), (address, 9))
                sent += 1
            except OSError:
                # No room for more, or the other end said that nobody listens.
                pass
    print("sent", sent)

{"memory": memory, "processes": processes, "disk": disk, "packets": packets}[verb]()
