"""Claims about processes that are forked from one that has embedded, as loaders of data do."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

# The parent uses its connections and threads; each child then embeds images of its own, in parts.
FORKED = """
import os, sys
import numpy as np
from metavae_client import RemoteEmbedder

url, name, token_file, images, codes = sys.argv[1:]
images, codes = np.load(images), np.load(codes)
with RemoteEmbedder(url, name, token_file=token_file, max_images_per_request=4) as embedder:
    summary = embedder.summarize(images)
    children = []
    for child in range(4):
        rows = slice(10 * child, 10 * child + 10)
        if not (forked := os.fork()):
            means = [embedder.embed(images[rows], summary).mean for _ in range(5)]
            embedder.close()
            os._exit(0 if all(np.array_equal(mean, codes[rows]) for mean in means) else 1)
        children.append(forked)
    ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert ended == [0] * 4, ended
    assert np.array_equal(embedder.embed(images, summary).mean, codes), "the parent's go on"
"""

# A thread of the parent waits for the card.
FORKED_MEANWHILE = """
import os, signal, socket, threading
from metavae_client import GaveUp, RemoteEmbedder

with socket.create_server(("127.0.0.1", 0)) as silent:
    url = f"http://127.0.0.1:{silent.getsockname()[1]}"
    embedder = RemoteEmbedder(url, "some", token="t", timeout=1, give_up_after=1)

    def ask():
        try:
            embedder.card
        except GaveUp:
            pass

    thread = threading.Thread(target=ask)
    thread.start()
    connection, _ = silent.accept()
    if not (forked := os.fork()):
        signal.alarm(30)
        try:
            embedder.card
        except GaveUp:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) == 0
    thread.join()
"""


def test_a_forked_process_gets_its_own_embeddings(server, local, images, tmp_path):
    files = [tmp_path / "images.npy", tmp_path / "codes.npy"]
    np.save(files[0], images[:40])
    np.save(files[1], local.embed(images[:40], local.summarize(images[:40])).mean)
    command = [sys.executable, "-c", FORKED, server.url, local.card.name, server.token_file]
    subprocess.run([*command, *files], check=True, timeout=120)


def test_a_forked_process_does_not_wait_for_a_thread_that_it_has_not():
    subprocess.run([sys.executable, "-c", FORKED_MEANWHILE], check=True, timeout=120)


# A client that was closed before the fork.
FORKED_CLOSED = """
import os
from metavae_client import RemoteEmbedder
from metavae_client.errors import Closed

closed = RemoteEmbedder("http://127.0.0.1:9", "some", token="t")
closed.close()
if not (forked := os.fork()):
    try:
        closed.card
    except Closed:
        os._exit(0)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) == 0
"""


def test_a_closed_embedder_stays_closed_in_a_forked_process():
    subprocess.run([sys.executable, "-c", FORKED_CLOSED], check=True, timeout=120)
