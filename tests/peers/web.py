"""A small web server on port 80: GET / answers with the mark, GET /N with N bytes of it, POST with how many bytes came
and their SHA-256."""
import hashlib, http.server, socket, socketserver, sys

mark = sys.argv[1].encode()

class Answer(http.server.BaseHTTPRequestHandler):
    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        length = self.path.strip("/")
        self.answer((mark * (int(length) // len(mark) + 1))[:int(length)] if length else mark)

    def do_POST(self):
        left, digest = int(self.headers["Content-Length"]), hashlib.sha256()
        while left:
            part = self.rfile.read(min(left, 1 << 16))
            if not part:
                return
            digest.update(part)
            left -= len(part)
        self.answer(b"%s %s" % (self.headers["Content-Length"].encode(), digest.hexdigest().encode()))

    def log_message(self, *_):
        pass

class Dual(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True

    def server_bind(self):
        # Not HTTPServer's: it asks the name service for the own name, and waits where none answers.
        socketserver.TCPServer.server_bind(self)

Dual(("::", 80), Answer).serve_forever()
