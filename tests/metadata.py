"""A machine's own address, on loopback: nothing is there until it is asked to tell that the machine goes."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer


class Machine:
    """What its address answers, and how often it was asked; ``TRUE`` is an answer that it gives once."""

    def __init__(self):
        self.asked, self.answer = 0, (404, b"nothing here")

    def told(self):
        self.asked += 1
        answer = self.answer
        if answer[1] == b"TRUE":
            self.answer = 200, b"FALSE\n"
        return answer


@contextmanager
def metadata():
    """The machine and the address that it answers at."""
    machine = Machine()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.headers["Metadata-Flavor"] == "Google"
            code, body = machine.told()
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield machine, f"http://127.0.0.1:{server.server_port}/spot"
        server.shutdown()
