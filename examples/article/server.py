#!/usr/bin/env python3
"""server.py PORT [--threads]: a plain HTTP/1.0 server that answers with its port.

It serves one request at a time unless --threads is given, each on a new connection. Like http.server without a length,
it ends a response by closing the connection. With ?sized the response has a length.
"""

import sys
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer("GET", b"")

    def do_POST(self):
        # No default: a POST without a length is an error.
        self.answer("POST", self.rfile.read(int(self.headers["Content-Length"])))

    def answer(self, method, body):
        text = f"{method} {len(body)} bytes answered by {self.server.server_port}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        if "sized" in self.path:
            self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


kind = ThreadingHTTPServer if "--threads" in sys.argv else HTTPServer
kind(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
