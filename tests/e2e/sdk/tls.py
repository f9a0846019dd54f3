"""A stream over HTTPS while the router's certificate is replaced.

usage: tls.py BASE_URL MODEL ROUTER_PID NEW_CHAIN CHAIN NEW_KEY KEY

SSL_CERT_FILE makes the client trust the custom issuer. After the first chunk the new files replace the router's, and
SIGHUP reloads them. The stream must be complete, and a new connection must get the new certificate.
"""

import os
import shutil
import signal
import socket
import ssl
import sys
import time
from urllib.parse import urlsplit

from openai import OpenAI

base_url, model, pid, new_chain, chain, new_key, key = sys.argv[1:]
place = urlsplit(base_url)


def shown():
    """Returns the certificate of a new connection."""
    context = ssl.create_default_context()
    with socket.create_connection((place.hostname, place.port), timeout=10) as plain:
        with context.wrap_socket(plain, server_hostname=place.hostname) as secure:
            return secure.getpeercert()["serialNumber"]


before = shown()
client = OpenAI(base_url=base_url, api_key="none", max_retries=0)
wanted = 200
stream = client.chat.completions.create(
    model=model,
    max_tokens=wanted,
    stream=True,
    stream_options={"include_usage": True},
    messages=[{"role": "user", "content": "Tell me about weirs."}],
)
chunks, usage, after = 0, None, before
for chunk in stream:
    chunks += 1
    usage = chunk.usage or usage
    if chunks == 1:
        shutil.copyfile(new_chain, chain)
        shutil.copyfile(new_key, key)
        os.kill(int(pid), signal.SIGHUP)
        for _ in range(100):
            after = shown()
            if after != before:
                break
            time.sleep(0.05)

assert after != before, "a new connection gets the new certificate"
assert usage and usage.completion_tokens == wanted, f"the stream is complete: {usage}"
print(f"ok a stream of {chunks} chunks continues while the certificate is replaced")
