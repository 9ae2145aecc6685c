"""An S3 server on loopback for a test: moto's, with one bucket, in memory. Says its port, and serves until it is killed.

A put that must not overwrite looks and writes in two steps there. S3 promises that it is one, so requests come one after the other.
"""

import sys
import threading
import urllib.request

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server


class Quiet(WSGIRequestHandler):
    def log(self, *_):
        pass


moto = DomainDispatcherApplication(create_backend_app)
turn = threading.Lock()


def one_at_a_time(environ, start_response):
    with turn:
        return list(moto(environ, start_response))


server = make_server("127.0.0.1", 0, one_at_a_time, threaded=True, request_handler=Quiet)
threading.Thread(target=server.serve_forever, daemon=True).start()
bucket = f"http://127.0.0.1:{server.port}/{sys.argv[1]}"
urllib.request.urlopen(urllib.request.Request(bucket, method="PUT")).close()
print(server.port, flush=True)
# The test holds the other end.
sys.stdin.read()
